// What a move did to the loads of its hosts, once they have settled, held against its record's
// prediction. Pure.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace godwit::node {

/// A host by what its node expects of it now.
struct SettledHost {
  double load = 0;  // forecast, a share of its capacity
  std::size_t guests = 0;
};

/// Fields for the outcome of `record`. `hosts`: all that can be told now, by name. `alone`: nobody
/// else came or went at the source meanwhile.
nlohmann::json verdict(const nlohmann::json& record,
                       const std::map<std::string, SettledHost>& hosts, bool alone);

/// The outcome of a record that nobody concludes any more because its node began anew; null when
/// there is nothing to add to what it has.
nlohmann::json unknown_outcome(const nlohmann::json& record);

}  // namespace godwit::node
