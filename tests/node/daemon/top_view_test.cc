#include "node/daemon/top_view.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <vector>

#include "node/daemon/screen_text.h"
#include "tests/node/daemon/sample_node.h"

namespace godwit::node {
namespace {

using nlohmann::json;

std::vector<std::string> lines_of(const std::string& frame) {
  std::vector<std::string> lines;
  std::istringstream stream(frame);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

json with_guests(int count) {
  json node = sample_node();
  for (int i = 1; i < count; ++i) {
    json guest = node["guests"][0];
    guest["name"] = "guest" + std::to_string(i);
    guest["demand"] = i * 0.001;
    node["guests"].push_back(guest);
  }
  return node;
}

TEST(TopView, IsThisForASmallNode) {
  EXPECT_EQ(render_top(sample_node(), 80, 24, false),
            R"(godwit a  goal balance, automatic  open  up 65 min  version 0.1.0
busy 0.31  waiting: cpu 10 %, mem 0 %, io 25 %  moves 3, failed 1, undone 0
net: 1000B/s in, 0B/s out

HOST           LOAD               CORES        MEMORY GUESTS
a              [### |     ]      1.25/4    812M/15.6G      1  1 outgoing
c              silent, last answer 12 s ago: connection refused
b              [#|        ]      0.50/4    500M/15.6G      1

GUEST          LOAD               CORES        MEMORY     DIRTY
web1           [#####|    ]      0.97/2      70M/256M    1.5M/s  moving, from c

MOVES
web1           [=======   ]  75 %  a -> b  64M left, 900 Mbit/s, 300 ms, rdma

LAST DECISIONS
     3 s  #17  moved web1 to b: a is expected at 4.6 of 4
)");
}

TEST(TopView, FitsEveryTerminal) {
  json node = with_guests(60);
  for (int i = 0; i < 30; ++i) {
    node["peers"].push_back(node["peers"][i % 2]);
    node["moves"].push_back(node["moves"][0]);
    node["decisions"].push_back(node["decisions"][0]);
  }
  for (const json& one : {node, sample_node(), json::object()}) {
    for (const unsigned columns : {1u, 40u, 80u, 200u}) {
      for (const unsigned rows :
           {1u, 4u, 5u, 7u, 8u, 11u, 13u, 14u, 15u, 16u, 17u, 24u, 50u, 200u}) {
        const auto lines = lines_of(render_top(one, columns, rows, false));
        EXPECT_LE(lines.size(), rows);
        for (const auto& line : lines) EXPECT_LE(width(line), columns) << line;
      }
    }
  }
}

TEST(TopView, FillsTheTerminalAndCountsWhatIsLeftOut) {
  const std::string frame = render_top(with_guests(300), 80, 24, false);
  EXPECT_EQ(lines_of(frame).size(), 24u);
  EXPECT_TRUE(has(frame, "\n... 293 more guests\n")) << frame;
  EXPECT_TRUE(has(frame, "\nweb1 ") && has(frame, "\nguest299 ")) << "who asks for most is first";
  EXPECT_FALSE(has(frame, "\nguest1 "));
  EXPECT_TRUE(has(render_top(with_guests(301), 80, 0, false), "\nguest1 "));
}

TEST(TopView, CutsNoDecisionAndNoAge) {
  json node = sample_node();
  const std::string words =
      "move guest web1 from host a to host b (imbalance): expected source "
      "96.5 % -> 66.4 %, target 0.0 % -> 30.1 %; about 1.2 s, paused 20 ms";
  for (const auto& [age, text] :
       {std::pair{64.0, "64 s"}, {5999.0, "100 min"}, {1e7, "116 days"}}) {
    node["decisions"] = {{{"id", 17}, {"age_s", age}, {"text", words}}};
    EXPECT_TRUE(has(render_top(node, 0, 0, false), text + ("  #17  " + words + '\n')));
    std::string together;
    for (const std::string& line : lines_of(render_top(node, 60, 0, false))) {
      if (line.find("  #17  ") != std::string::npos) together = line;
      if (line.rfind("               ", 0) == 0) together += line.substr(14);
    }
    EXPECT_TRUE(has(together, words)) << together;
  }
  node["peers"][1]["why"] = std::string(200, 'x');
  EXPECT_TRUE(has(render_top(node, 0, 0, false), std::string(200, 'x') + '\n'));
}

TEST(TopView, SaysWhenTheCertificateEnds) {
  json node = sample_node();
  const auto head = [&](double left) {
    node["certificate_left_s"] = left;
    return lines_of(render_top(node, 0, 0, false)).at(0);
  };
  EXPECT_FALSE(has(head(31 * 86'400.0), "certificate"));
  EXPECT_TRUE(has(head(12 * 86'400.0), "certificate: 12 days left"));
  EXPECT_TRUE(has(head(-1), "certificate has expired"));
}

TEST(TopView, MarksLoadForecastAndMoreThanThereIs) {
  json node = sample_node();
  const auto bar = [&](double demand, double forecast) {
    node["host"]["demand"] = demand;
    node["host"]["forecast"]["mean"] = forecast;
    const std::string line = lines_of(render_top(node, 80, 24, false)).at(5);
    return line.substr(15, 12);
  };
  EXPECT_EQ(bar(0, 0), "[|         ]");
  EXPECT_EQ(bar(2, 3.2), "[#####   | ]");
  EXPECT_EQ(bar(4, 2), "[#####|####]");
  EXPECT_EQ(bar(5, 2), "[#####|###>]");
  EXPECT_EQ(bar(-5, 1e300), "[         |]");
}

TEST(TopView, ShowsWhatNeedsAttentionInColourAndFirst) {
  json node = sample_node();
  node["peers"][0]["hot"] = true;
  node["peers"][0]["demand"] = 3.9;
  const std::string frame = render_top(node, 80, 24, true);
  EXPECT_TRUE(has(frame, "\033[31mhot\033[0m")) << frame;
  EXPECT_TRUE(has(frame, "\033[31msilent\033[0m"));
  EXPECT_TRUE(has(frame, "\033[31m#"));  // its bar
  EXPECT_LT(frame.find("\nb "), frame.find("silent"));
  EXPECT_FALSE(has(render_top(node, 80, 24, false), "\033"));
}

/// Every string of the node is an attack on the terminal.
void poison(json& here) {
  for (auto& child : here) {
    if (child.is_structured()) poison(child);
    if (child.is_string()) child = "x\033]0;y\007\n\r\xC2\x9B\xE2\x80\xAE\xFF";
  }
}

TEST(TopView, LetsNoControlCharacterThrough) {
  json node = sample_node();
  poison(node);
  for (const unsigned columns : {80u, 400u}) {
    const std::string frame = render_top(node, columns, 50, false);
    EXPECT_TRUE(has(frame, "x?]0;y??????")) << frame;
    for (const char* bad : {"\033", "\007", "\r", "\xC2\x9B", "\xE2\x80\xAE", "\xFF"}) {
      EXPECT_FALSE(has(frame, bad));
    }
  }
}

void replace_each(const json& root, json& here) {
  for (auto& child : here) {
    const json kept = child;
    for (const json& other : {json(), json(-1e300), json(1e300), json("x"), json(true),
                              json::array({1, nullptr}), json::object({{"name", "n"}})}) {
      child = other;
      EXPECT_NO_THROW(render_top(root, 80, 24, true)) << root;
    }
    child = kept;
    if (child.is_structured()) replace_each(root, child);
  }
}

TEST(TopView, SurvivesEveryFieldOfAnotherTypeOrSize) {
  json node = sample_node();
  replace_each(node, node);
}

TEST(TopView, SaysWhenThereAreNoGuests) {
  json node = sample_node();
  node["guests"] = json::array();
  EXPECT_TRUE(has(render_top(node, 80, 24, false), "\nno guests\n"));
}

}  // namespace
}  // namespace godwit::node
