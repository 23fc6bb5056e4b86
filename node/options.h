// The command line of one subcommand: flags, --help and --config, by Boost.Program_options. Every
// value comes out as text and is parsed by units.h, so every complaint has the same one-line form
// "--flag: why". Built and used by one thread.
#pragma once

#include <boost/program_options/options_description.hpp>
#include <boost/program_options/positional_options.hpp>
#include <boost/program_options/variables_map.hpp>
#include <cstdint>
#include <list>
#include <stdexcept>
#include <string>
#include <vector>

namespace godwit::node {

/// The user asked for something that makes no sense; what() is one line without the command's name.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Options {
 public:
  /// `synopsis` follows "godwit " in the help; `text` explains the command below its options.
  Options(std::string synopsis, std::string summary, std::string text);

  /// What is added from here on stands under this title in the help.
  Options& group(const char* title);
  Options& flag(const char* name, const char* help);
  Options& value(const char* name, const char* placeholder, const char* help);
  Options& value(const char* name, const char* placeholder, const char* help,
                 const std::string& default_value);
  Options& values(const char* name, const char* placeholder, const char* help);
  /// --config FILE means something of this command's own; without this it is a file of options.
  Options& config(const char* help);
  /// An argument without a flag, such as the guest's NAME; always required.
  Options& argument(const char* name);
  /// The last of them may be left out: has() tells.
  Options& optional_argument(const char* name);

  /// Returns false when --help was asked for (and printed). Throws UsageError.
  bool parse(const std::vector<std::string>& words);

  bool on(const char* name) const;           // a flag
  bool has(const char* name) const;          // a value that was given or has a default
  std::string text(const char* name) const;  // a value that must be there
  std::vector<std::string> all(const char* name) const;

  // The value in its unit; UsageError names the flag.
  std::uint64_t size(const char* name) const;     // bytes
  std::uint64_t time_ns(const char* name) const;  // nanoseconds
  std::uint64_t rate(const char* name) const;     // bits a second
  std::uint64_t count(const char* name, std::uint64_t low, std::uint64_t high) const;

 private:
  void read_config_file(const std::string& path);
  void print_help() const;

  std::string synopsis_;
  std::string summary_;
  std::string text_;
  std::list<boost::program_options::options_description> groups_;
  boost::program_options::options_description visible_;  // all of them, while parsing
  boost::program_options::options_description hidden_;
  boost::program_options::positional_options_description positional_;
  boost::program_options::variables_map values_;
  std::vector<std::string> arguments_;
  const char* own_config_ = nullptr;
};

}  // namespace godwit::node
