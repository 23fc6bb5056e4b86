#include "balancer/simulator/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "balancer/simulator/trace.h"

namespace godwit::balancer::simulator {

namespace {

// File names end up in XML.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
    }
  }
  return out;
}

std::string csv_field(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

struct Panel {
  const char* title;
  std::vector<double> Metrics::*series;
  std::vector<double> Metrics::*bound = nullptr;
};
constexpr Panel kPanels[] = {{"active hosts", &Metrics::active_series},
                             {"power, kW", &Metrics::power_series},
                             {"standard deviation of host load (dashed: bound)",
                              &Metrics::deviation_series, &Metrics::deviation_bound_series},
                             {"moves started a sample", &Metrics::move_series}};
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"};
constexpr double kWidth = 760, kPanelHeight = 130, kLeft = 70, kTop = 60, kGap = 45;

void draw_panel(std::string& svg, const Panel& panel, double top,
                const std::vector<Result>& results) {
  auto out = std::back_inserter(svg);
  double most = 0;
  for (const Result& result : results) {
    for (const double value : result.metrics.*panel.series) most = std::max(most, value);
  }
  if (most <= 0) most = 1;
  fmt::format_to(out, "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{}</text>\n", kLeft, top - 8,
                 panel.title);
  for (int i = 0; i <= 4; ++i) {
    const double y = top + kPanelHeight * (4 - i) / 4;
    fmt::format_to(out,
                   "<line x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" stroke=\"#ccc\"/>"
                   "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.3g}</text>\n",
                   kLeft, kLeft + kWidth, y, y, kLeft - 6, y + 4, most * i / 4);
  }
  for (int hour = 0; hour <= 24; hour += 4) {
    fmt::format_to(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{} h</text>\n",
                   kLeft + kWidth * hour / 24, top + kPanelHeight + 16, hour);
  }
  const auto line = [&](const std::vector<double>& series, const char* style) {
    fmt::format_to(out, "<polyline fill=\"none\" {} points=\"", style);
    for (std::size_t i = 0; i < series.size(); ++i) {
      fmt::format_to(out, "{:.1f},{:.1f} ",
                     kLeft + kWidth * static_cast<double>(i + 1) / kSamplesPerDay,
                     top + kPanelHeight * (1 - series[i] / most));
    }
    svg += "\"/>\n";
  };
  for (std::size_t r = 0; r < results.size(); ++r) {
    line(results[r].metrics.*panel.series,
         fmt::format("stroke=\"{}\" stroke-width=\"1.5\"", kColours[r % std::size(kColours)])
             .c_str());
  }
  if (panel.bound != nullptr && !results.empty()) {
    line(results.front().metrics.*panel.bound, "stroke=\"#777\" stroke-dasharray=\"4 3\"");
  }
}

}  // namespace

namespace {

std::string bound_text(const Metrics& m) {
  if (m.deviation_bound_series.empty()) return "bound not computed";
  return fmt::format("bound {:.5f}: every sample placed anew, moves free", m.deviation_bound);
}

}  // namespace

std::string to_text(const Result& r) {
  const Metrics& m = r.metrics;
  return fmt::format(
      "{} on {}: {} hosts, {} guests, seed {}, idle guests {}\n"
      "  energy            {:.2f} kWh (bound {:.2f}: every sample packed perfectly, moves free)\n"
      "  SLATAH            {:.3f} %\n"
      "  PDM               {:.5f} %\n"
      "  SLAV, ESV         {:.3e}, {:.3e}\n"
      "  migrations        {} ({} undone, {} unprofitable)\n"
      "  load deviation    {:.5f} (time average over all hosts; {})\n"
      "  overload          {:.0f} host-seconds\n"
      "  active hosts      {:.1f} (time average), {} shut-downs\n"
      "  decisions         {:.3f} s for {} host rounds, {:.2f} us each; simulated in {:.2f} s\n",
      r.policy, r.trace, r.hosts, r.guests, r.seed, r.idle_removed ? "removed" : "kept",
      m.energy_kwh, m.energy_bound_kwh, m.slatah * 100, m.pdm * 100, m.slav(), m.esv(),
      m.migrations, m.undone, m.unprofitable, m.load_deviation, bound_text(m), m.overload_seconds,
      m.mean_active_hosts, m.shutdowns, m.decision_seconds, m.decision_rounds,
      m.decision_rounds > 0 ? m.decision_seconds * 1e6 / static_cast<double>(m.decision_rounds) : 0,
      r.wall_seconds);
}

std::string csv_header() {
  return "policy,trace,hosts,guests,seed,idle_removed,energy_kwh,energy_bound_kwh,slatah,pdm,slav,"
         "esv,"
         "migrations,undone,unprofitable,load_deviation,load_deviation_bound,overload_seconds,mean_"
         "active_hosts,"
         "shutdowns,"
         "decision_seconds,decision_rounds,wall_seconds\n";
}

std::string to_csv(const Result& r) {
  const Metrics& m = r.metrics;
  return fmt::format(
      "{},{},{},{},{},{},{:.4f},{:.4f},{:.6e},{:.6e},{:.6e},{:.6e},{},{},{},{:.6f},{},{:.1f},{:.2f}"
      ",{}"
      ","
      "{:.4f},{},{:.3f}\n",
      csv_field(r.policy), csv_field(r.trace), r.hosts, r.guests, r.seed, r.idle_removed ? 1 : 0,
      m.energy_kwh, m.energy_bound_kwh, m.slatah, m.pdm, m.slav(), m.esv(), m.migrations, m.undone,
      m.unprofitable, m.load_deviation,
      m.deviation_bound_series.empty() ? std::string() : fmt::format("{:.6f}", m.deviation_bound),
      m.overload_seconds, m.mean_active_hosts, m.shutdowns, m.decision_seconds, m.decision_rounds,
      r.wall_seconds);
}

std::string series_csv(const Result& result) {
  const Metrics& m = result.metrics;
  std::string csv = "seconds,load_deviation,load_deviation_bound,active_hosts,kilowatts,moves\n";
  for (std::size_t i = 0; i < m.deviation_series.size(); ++i) {
    const std::string bound = i < m.deviation_bound_series.size()
                                  ? fmt::format("{:.6f}", m.deviation_bound_series[i])
                                  : std::string();
    csv += fmt::format("{},{:.6f},{},{},{:.4f},{}\n", static_cast<double>(i + 1) * kSampleSeconds,
                       m.deviation_series[i], bound, m.active_series[i], m.power_series[i],
                       m.move_series[i]);
  }
  return csv;
}

std::string to_svg(const std::vector<Result>& results) {
  const double height = kTop + static_cast<double>(std::size(kPanels)) * (kPanelHeight + kGap);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      kLeft + kWidth + 30, height);
  for (std::size_t r = 0; r < results.size(); ++r) {
    svg += fmt::format("<text x=\"{}\" y=\"24\" fill=\"{}\" font-weight=\"bold\">{} ({})</text>\n",
                       kLeft + 250 * static_cast<double>(r), kColours[r % std::size(kColours)],
                       escaped(results[r].policy), escaped(results[r].trace));
  }
  for (std::size_t p = 0; p < std::size(kPanels); ++p) {
    draw_panel(svg, kPanels[p], kTop + static_cast<double>(p) * (kPanelHeight + kGap), results);
  }
  return svg + "</svg>\n";
}

}  // namespace godwit::balancer::simulator
