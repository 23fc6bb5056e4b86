#include "node/options.h"

#include <fmt/format.h>

#include <boost/program_options/parsers.hpp>
#include <boost/program_options/value_semantic.hpp>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "node/units.h"

namespace godwit::node {

namespace po = boost::program_options;

namespace {

/// A string option that shows `placeholder` in the help, and its default if it has one.
po::typed_value<std::string>* string_value(const char* placeholder) {
  return po::value<std::string>()->value_name(placeholder);
}

constexpr unsigned kColumns = 100;  // of the help
constexpr unsigned kTextColumns = 60;

constexpr int kStyle = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;

/// Program_options' complaints in our form.
[[noreturn]] void rethrow(const std::string& prefix) {
  try {
    throw;
  } catch (const po::unknown_option& error) {
    throw UsageError(fmt::format("{}unknown option {}", prefix, error.get_option_name()));
  } catch (const po::multiple_occurrences& error) {
    throw UsageError(fmt::format("{}{}: given twice", prefix, error.get_option_name()));
  } catch (const po::too_many_positional_options_error&) {
    throw UsageError(fmt::format("{}too many arguments", prefix));
  } catch (const po::invalid_command_line_syntax& error) {
    if (error.kind() == po::invalid_syntax::missing_parameter) {
      throw UsageError(fmt::format("{}{}: lacks a value", prefix, error.get_option_name()));
    }
    throw UsageError(prefix + error.what());
  } catch (const po::validation_error& error) {
    throw UsageError(
        fmt::format("{}{}: a switch: write true or false", prefix, error.get_option_name()));
  } catch (const po::error& error) {
    throw UsageError(prefix + error.what());
  }
}

}  // namespace

Options::Options(std::string synopsis, std::string summary, std::string text)
    : synopsis_(std::move(synopsis)),
      summary_(std::move(summary)),
      text_(std::move(text)),
      visible_(kColumns, kTextColumns) {
  group("Options");
}

Options& Options::group(const char* title) {
  groups_.emplace_back(title, kColumns, kTextColumns);
  return *this;
}

Options& Options::flag(const char* name, const char* help) {
  groups_.back().add_options()(name, po::bool_switch(), help);
  return *this;
}

Options& Options::value(const char* name, const char* placeholder, const char* help) {
  groups_.back().add_options()(name, string_value(placeholder), help);
  return *this;
}

Options& Options::value(const char* name, const char* placeholder, const char* help,
                        const std::string& default_value) {
  groups_.back().add_options()(name, string_value(placeholder)->default_value(default_value), help);
  return *this;
}

Options& Options::values(const char* name, const char* placeholder, const char* help) {
  groups_.back().add_options()(name, po::value<std::vector<std::string>>()->value_name(placeholder),
                               help);
  return *this;
}

Options& Options::argument(const char* name) {
  optional_argument(name);
  arguments_.emplace_back(name);
  return *this;
}

Options& Options::optional_argument(const char* name) {
  hidden_.add_options()(name, po::value<std::string>());
  positional_.add(name, 1);
  return *this;
}

Options& Options::config(const char* help) {
  own_config_ = help;
  return *this;
}

bool Options::parse(const std::vector<std::string>& words) {
  if (groups_.size() > 1) group("Other");
  value("config", "FILE",
        own_config_ != nullptr
            ? own_config_
            : "read options from an INI file (name = value); the command line wins");
  groups_.back().add_options()("help,h", po::bool_switch(), "show this help");
  for (const po::options_description& each : groups_) {
    if (!each.options().empty()) visible_.add(each);
  }
  po::options_description all;
  all.add(visible_).add(hidden_);
  try {
    po::store(
        po::command_line_parser(words).options(all).positional(positional_).style(kStyle).run(),
        values_);
  } catch (const po::error&) {
    rethrow("");
  }
  if (on("help")) {
    print_help();
    return false;
  }
  if (own_config_ == nullptr && has("config")) read_config_file(text("config"));
  for (const std::string& argument : arguments_) {
    if (values_.count(argument) == 0) {
      throw UsageError(fmt::format("{} is missing: godwit {}", argument, synopsis_));
    }
  }
  return true;
}

void Options::read_config_file(const std::string& path) {
  std::ifstream file(path);
  if (file) file.peek();  // a directory opens, but does not read
  if (!file && !file.eof()) throw UsageError(fmt::format("--config: cannot read {}", path));
  file.clear();
  try {
    po::store(po::parse_config_file(file, visible_), values_);
  } catch (const po::error&) {
    rethrow(fmt::format("--config: {}: ", path));
  }
}

void Options::print_help() const {
  std::ostringstream options;
  options << visible_;
  fmt::print("Usage: godwit {}\n\n{}\n{}", synopsis_, summary_, options.str());
  if (!text_.empty()) fmt::print("\n{}\n", text_);
}

bool Options::on(const char* name) const {
  const auto found = values_.find(name);
  return found != values_.end() && found->second.as<bool>();
}

bool Options::has(const char* name) const { return values_.count(name) != 0; }

std::string Options::text(const char* name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) throw UsageError(fmt::format("--{}: is missing", name));
  return found->second.as<std::string>();
}

std::vector<std::string> Options::all(const char* name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) return {};
  return found->second.as<std::vector<std::string>>();
}

namespace {

template <typename Parse>
std::uint64_t parsed(const char* name, const std::string& text, Parse parse) {
  try {
    return parse(text);
  } catch (const UnitError& error) {
    throw UsageError(fmt::format("--{}: {}", name, error.what()));
  }
}

}  // namespace

std::uint64_t Options::size(const char* name) const { return parsed(name, text(name), parse_size); }

std::uint64_t Options::time_ns(const char* name) const {
  return parsed(name, text(name), parse_time_ns);
}

std::uint64_t Options::rate(const char* name) const { return parsed(name, text(name), parse_rate); }

std::uint64_t Options::count(const char* name, std::uint64_t low, std::uint64_t high) const {
  return parsed(name, text(name),
                [&](const std::string& value) { return parse_count(value, low, high); });
}

}  // namespace godwit::node
