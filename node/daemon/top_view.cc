#include "node/daemon/top_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "node/daemon/json_fields.h"
#include "node/daemon/screen_line.h"
#include "node/daemon/screen_text.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr double kMegabyte = 1048576;
constexpr double kMostBytes = 1e15;                  // what is more is nonsense
constexpr double kCertificateWarning = 30 * 86'400;  // seconds

using Number = std::optional<double>;

constexpr std::size_t kUsualColumns = 100;  // where no line is cut

/// Widths of the columns that grow with the terminal.
struct Layout {
  explicit Layout(unsigned wanted)
      : columns(wanted == 0 ? std::numeric_limits<std::size_t>::max() : wanted) {
    const std::size_t there = wanted == 0 ? kUsualColumns : columns;
    const std::size_t extra = there > 80 ? there - 80 : 0;
    const std::size_t lacking = there < 80 ? 80 - there : 0;
    name = 14 + std::min<std::size_t>(extra / 4, 26);
    bar = (lacking < 6 ? 12 - lacking : 6) + std::min<std::size_t>(extra / 3, 40);
  }
  std::size_t columns, name, bar;
  static constexpr std::size_t kCores = 12, kMemory = 14, kRate = 10;
};

/// A title and lines below it, of which some may not fit.
struct Section {
  ScreenLine title;
  const char* noun;  // what is counted when not all fits; null: the rest is of no interest
  std::size_t part;  // 1/part of the rows is its own, the others share what it leaves
  std::vector<ScreenLine> lines;
};

std::string bytes(Number amount) {
  if (!amount || *amount < 0 || *amount > kMostBytes) return "-";
  return format_size(static_cast<std::uint64_t>(*amount));
}

std::string megabytes(Number amount) {
  return amount ? bytes(*amount * kMegabyte) : std::string("-");
}

std::string rate(Number bytes_per_second) { return bytes(bytes_per_second) + "/s"; }

std::string cores(Number amount) {
  if (!amount || *amount < 0) return "-";
  return *amount < 1000 ? fmt::format("{:.2f}", *amount) : fmt::format("{:.3g}", *amount);
}

/// "4", "2.5"
std::string plain(Number amount) { return amount ? fmt::format("{:.4g}", *amount) : "-"; }

std::string count(Number amount) {
  return amount && std::abs(*amount) < 1e15 ? fmt::format("{:.0f}", *amount) : "-";
}

std::string age(Number seconds) {
  return !seconds || *seconds < 0 || *seconds > 1e10 ? "-" : format_age(*seconds);
}

std::string percent(Number ratio) {
  return ratio && std::abs(*ratio) < 1e6 ? fmt::format("{:.0f} %", *ratio * 100) : "-";
}

Style style_of_load(double ratio) {
  return ratio >= 0.9 ? Style::kBad : ratio >= 0.7 ? Style::kWarn : Style::kGood;
}

/// A forecast is an object for what is ours, and a number for what a peer told.
Number forecast_of(const json& object) {
  const Number mean = number_in(field(object, "forecast"), "mean");
  return mean ? mean : number_in(object, "forecast");
}

/// "[#####  |   ]", `columns` wide; shares of what there is, 1 is all of it.
void add_bar(ScreenLine& line, std::size_t columns, Number share, Number forecast) {
  const std::size_t inner = columns - 2;
  const auto cells = [inner](double ratio) {
    return static_cast<std::size_t>(
        std::lround(std::clamp(ratio, 0.0, 1.0) * static_cast<double>(inner)));
  };
  std::string text(inner, ' ');
  if (share) std::fill_n(text.begin(), cells(*share), '#');
  if (share && *share > 1.005) text.back() = '>';
  if (forecast) text[std::min(cells(*forecast), inner - 1)] = '|';
  line.add("[").add(text, share ? style_of_load(*share) : Style::kPlain).add("]");
}

Number share_of(Number part, Number whole) {
  if (!part || !whole || *whole <= 0) return {};
  return *part / *whole;
}

void add_note(std::string& notes, const std::string& note) {
  if (note.empty()) return;
  notes += (notes.empty() ? "" : ", ") + note;
}

void add_load(ScreenLine& line, const Layout& layout, const json& object, Number capacity) {
  const Number demand = number_in(object, "demand");
  line.add(" ");
  add_bar(line, layout.bar, share_of(demand, capacity), share_of(forecast_of(object), capacity));
  line.right(cores(demand) + "/" + plain(capacity), Layout::kCores);
  line.right(
      megabytes(number_in(object, "memory_used")) + "/" + megabytes(number_in(object, "memory")),
      Layout::kMemory);
}

/// Parts side by side, and on lines of their own where they do not fit.
void add_parts(std::vector<ScreenLine>& lines, const std::vector<std::string>& parts,
               const Layout& layout) {
  std::string line;
  for (const std::string& part : parts) {
    if (!line.empty() && width(line) + 2 + width(part) > layout.columns) {
      lines.push_back(ScreenLine(layout.columns).add(std::exchange(line, {})));
    }
    line += (line.empty() ? "" : "  ") + part;
  }
  lines.push_back(ScreenLine(layout.columns).add(line));
}

std::vector<ScreenLine> head_lines(const json& node, const Layout& layout) {
  const json& host = field(node, "host");
  const json& psi = field(host, "psi");
  const json& counters = field(node, "counters");
  ScreenLine first(layout.columns);
  first.add("godwit ", Style::kBold).add(text_in(node, "name").value_or("?"), Style::kBold);
  const std::string state = text_in(node, "state").value_or("?");
  first.add("  goal ").add(text_in(node, "goal").value_or("?"));
  first.add(", ").add(text_in(node, "mode").value_or("?")).add("  ");
  first.add(state, state == "open" ? Style::kGood : Style::kWarn);
  first.add("  up " + age(number_in(node, "uptime_s")));
  first.add("  version " + text_in(node, "version").value_or("?"), Style::kDim);
  if (const Number left = number_in(node, "certificate_left_s");
      left && *left < kCertificateWarning) {
    first.add(*left > 0 ? "  certificate: " + age(left) + " left" : "  certificate has expired",
              Style::kBad);
  }
  std::vector<ScreenLine> lines{first};
  add_parts(
      lines,
      {fmt::format("busy {}  waiting: cpu {}, mem {}, io {}", cores(number_in(host, "cpu_busy")),
                   percent(number_in(psi, "cpu")), percent(number_in(psi, "memory")),
                   percent(number_in(psi, "io"))),
       fmt::format("moves {}, failed {}, undone {}", count(number_in(counters, "moves_completed")),
                   count(number_in(counters, "moves_failed")),
                   count(number_in(counters, "moves_undone"))),
       fmt::format("net: {} in, {} out", rate(number_in(host, "network_rx_bytes_per_s")),
                   rate(number_in(host, "network_tx_bytes_per_s")))},
      layout);
  return lines;
}

void host_notes(ScreenLine& line, const json& host, const std::string& notes) {
  line.right(count(number_in(host, "guests")), 7).add("  ");
  const bool hot = number_in(host, "hot").value_or(0) != 0;
  if (hot) line.add(notes.empty() ? "hot" : "hot, ", Style::kBad);
  line.add(notes);
}

ScreenLine own_host(const json& node, const Layout& layout) {
  const json& host = field(node, "host");
  ScreenLine line(layout.columns);
  line.cell(text_in(node, "name").value_or("?"), layout.name, Style::kBold);
  add_load(line, layout, host, number_in(host, "capacity"));
  std::string notes;
  const std::string state = text_in(node, "state").value_or("");
  if (state != "open") add_note(notes, state);
  for (const char* way : {"incoming", "outgoing"}) {
    const Number moves = number_in(host, way);
    if (moves && *moves > 0) add_note(notes, fmt::format("{} {}", count(moves), way));
  }
  host_notes(line, host, notes);
  return line;
}

ScreenLine peer_line(const json& peer, const Layout& layout) {
  ScreenLine line(layout.columns);
  const std::string state = text_in(peer, "state").value_or("?");
  const bool alive = state == "alive";
  const auto address = text_in(peer, "address").value_or("?");
  const auto name = text_in(peer, "name").value_or("");
  line.cell(name.empty() ? address : name, layout.name, alive ? Style::kPlain : Style::kDim);
  const Number seconds = number_in(peer, "age_s");
  if (!alive) {
    line.add(" ").add(state, state == "asleep" ? Style::kDim : Style::kBad);
    if (seconds) line.add(", last answer " + age(seconds) + " ago");
    const std::string why = text_in(peer, "why").value_or("");
    if (!why.empty()) line.add(": " + why);
    return line;
  }
  add_load(line, layout, peer, number_in(peer, "capacity"));
  std::string notes;
  if (number_in(peer, "closed").value_or(0) != 0) add_note(notes, "closed");
  if (seconds && *seconds >= 3) add_note(notes, age(seconds) + " old");
  host_notes(line, peer, notes);
  return line;
}

int rank_of(const json& peer) {
  if (number_in(peer, "hot").value_or(0) != 0) return 0;
  const std::string state = text_in(peer, "state").value_or("?");
  return state == "alive" || state == "asleep" ? 2 : 1;
}

Section hosts_section(const json& node, const Layout& layout) {
  ScreenLine title(layout.columns);
  title.cell("HOST", layout.name + 1, Style::kBold).cell("LOAD", layout.bar, Style::kBold);
  title.right("CORES", Layout::kCores, Style::kBold).right("MEMORY", Layout::kMemory, Style::kBold);
  title.right("GUESTS", 7, Style::kBold);
  Section section{title, "host", 3, {own_host(node, layout)}};
  for (const int rank : {0, 1, 2}) {  // when not all fit, those that need attention do
    for (const json& peer : list_in(node, "peers")) {
      if (rank_of(peer) == rank) section.lines.push_back(peer_line(peer, layout));
    }
  }
  return section;
}

ScreenLine guest_line(const json& guest, const Layout& layout) {
  ScreenLine line(layout.columns);
  line.cell(text_in(guest, "name").value_or("?"), layout.name);
  add_load(line, layout, guest, number_in(guest, "cpus"));
  const Number dirty = number_in(guest, "dirty_rate");
  line.right(rate(dirty ? Number(*dirty * kMegabyte) : dirty), Layout::kRate).add("  ");
  std::string notes;
  const std::string state = text_in(guest, "state").value_or("?");
  if (state != "running") add_note(notes, state == "migrating" ? "moving" : state);
  const std::string left = text_in(guest, "left").value_or("");
  if (!left.empty()) add_note(notes, "from " + left);
  if (number_in(guest, "pinned").value_or(0) != 0) add_note(notes, "pinned");
  line.add(notes);
  return line;
}

/// The elements of a list, the largest `key` first (the smallest with `ascending`), without it
/// last.
std::vector<const json*> sorted(const json& list, const char* key, bool ascending) {
  std::vector<std::pair<double, const json*>> keyed;
  for (const json& one : list) {
    const Number value = number_in(one, key);
    keyed.emplace_back(
        value ? (ascending ? *value : -*value) : std::numeric_limits<double>::infinity(), &one);
  }
  std::stable_sort(keyed.begin(), keyed.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<const json*> out;
  out.reserve(keyed.size());
  for (const auto& one : keyed) out.push_back(one.second);
  return out;
}

Section guests_section(const json& node, const Layout& layout) {
  ScreenLine title(layout.columns);
  title.cell("GUEST", layout.name + 1, Style::kBold).cell("LOAD", layout.bar, Style::kBold);
  title.right("CORES", Layout::kCores, Style::kBold).right("MEMORY", Layout::kMemory, Style::kBold);
  title.right("DIRTY", Layout::kRate, Style::kBold);
  Section section{title, "guest", 4, {}};
  for (const json* guest : sorted(list_in(node, "guests"), "demand", false)) {
    section.lines.push_back(guest_line(*guest, layout));
  }
  if (section.lines.empty()) {
    section.lines.push_back(ScreenLine(layout.columns).add("no guests", Style::kDim));
  }
  return section;
}

ScreenLine move_line(const json& move, const Layout& layout) {
  ScreenLine line(layout.columns);
  line.cell(text_in(move, "guest").value_or("?"), layout.name).add(" ");
  const Number left = number_in(move, "remaining_bytes");
  const Number open = share_of(left, number_in(move, "total_bytes"));
  const Number done = open ? Number(std::clamp(1 - *open, 0.0, 1.0)) : Number();
  const std::size_t filled =
      static_cast<std::size_t>(done.value_or(0) * static_cast<double>(layout.bar - 2));
  line.add("[" + std::string(filled, '=') + std::string(layout.bar - 2 - filled, ' ') + "]");
  line.right(percent(done), 6).add("  ");
  line.add(text_in(move, "from").value_or("?") + " -> " + text_in(move, "to").value_or("?"));
  const std::string phase = text_in(move, "phase").value_or("moving");
  std::string notes;
  if (phase != "rounds") add_note(notes, phase);
  if (left) add_note(notes, bytes(left) + " left");
  const Number speed = number_in(move, "throughput_mbps");
  if (speed && *speed > 0 && *speed < 1e9) add_note(notes, format_rate(*speed * 1e6));
  const Number elapsed = number_in(move, "elapsed_ms");
  if (elapsed && *elapsed >= 0 && *elapsed < 1e12) add_note(notes, format_time_ms(*elapsed));
  add_note(notes, text_in(move, "transport").value_or(""));
  line.add("  " + notes);
  return line;
}

/// Its text goes on below itself, unless the terminal is narrow.
void add_decision(std::vector<ScreenLine>& lines, const json& decision, const Layout& layout) {
  constexpr std::size_t kAge = 8, kLeast = 20;
  const std::string id = "  #" + count(number_in(decision, "id")) + "  ";
  const std::string text = printable(text_in(decision, "text").value_or("?"));
  const std::size_t indent = kAge + width(id);
  const std::size_t room = layout.columns < indent + kLeast ? text.size() : layout.columns - indent;
  ScreenLine line(layout.columns);
  line.right(age(number_in(decision, "age_s")), kAge).add(id, Style::kDim);
  for (const std::string& part : wrapped(text, room)) {
    lines.push_back(line.add(part));
    line = ScreenLine(layout.columns).right("", indent);
  }
}

std::vector<Section> all_sections(const json& node, const Layout& layout) {
  std::vector<Section> sections{hosts_section(node, layout), guests_section(node, layout)};
  Section moves{ScreenLine(layout.columns).add("MOVES", Style::kBold), "move", 6, {}};
  for (const json& move : list_in(node, "moves")) moves.lines.push_back(move_line(move, layout));
  if (!moves.lines.empty()) sections.push_back(std::move(moves));
  Section decisions{ScreenLine(layout.columns).add("LAST DECISIONS", Style::kBold), nullptr, 5, {}};
  for (const json* decision : sorted(list_in(node, "decisions"), "age_s", true)) {
    add_decision(decisions.lines, *decision, layout);
  }
  if (!decisions.lines.empty()) sections.push_back(std::move(decisions));
  return sections;
}

/// How many lines each section gets of `room`: its own part, then what is left, moves first.
std::vector<std::size_t> shares(const std::vector<Section>& sections, std::size_t room) {
  std::vector<std::size_t> granted;
  const std::size_t all = room;
  for (const Section& section : sections) {
    granted.push_back(
        std::min({section.lines.size(), std::max<std::size_t>(1, all / section.part), room}));
    room -= granted.back();
  }
  for (const std::size_t i : {2u, 1u, 0u, 3u}) {
    if (i >= sections.size()) continue;
    const std::size_t more = std::min(sections[i].lines.size() - granted[i], room);
    granted[i] += more;
    room -= more;
  }
  return granted;
}

void add_section(std::vector<ScreenLine>& out, const Section& section, std::size_t granted,
                 const Layout& layout) {
  out.emplace_back(layout.columns);
  out.push_back(section.title);
  const std::size_t all = section.lines.size();
  const bool counted = granted < all && section.noun != nullptr;
  const std::size_t shown = granted - (counted ? 1 : 0);
  out.insert(out.end(), section.lines.begin(),
             section.lines.begin() + static_cast<std::ptrdiff_t>(shown));
  if (!counted) return;
  out.push_back(ScreenLine(layout.columns)
                    .add(fmt::format("... {}{} {}{}", all - shown, shown == 0 ? "" : " more",
                                     section.noun, all - shown == 1 ? "" : "s"),
                         Style::kDim));
}

}  // namespace

std::string render_top(const json& node, unsigned columns, unsigned rows, bool colour) {
  const Layout layout(columns);
  const std::size_t most = rows == 0 ? std::numeric_limits<std::size_t>::max() : rows;
  std::vector<ScreenLine> lines = head_lines(node, layout);
  std::vector<Section> sections = all_sections(node, layout);
  // A section takes a blank line, its title and at least one line.
  while (!sections.empty() && lines.size() + 3 * sections.size() > most) sections.pop_back();
  const auto granted = shares(sections, most - std::min(most, lines.size() + 2 * sections.size()));
  for (std::size_t i = 0; i < sections.size(); ++i) {
    add_section(lines, sections[i], granted[i], layout);
  }
  std::string out;
  for (std::size_t i = 0; i < std::min(lines.size(), most); ++i)
    out += lines[i].text(colour) + '\n';
  return out;
}

}  // namespace godwit::node
