// The five most likely classes of one frame.
//
//     classify ENGINE FRAME [--threads N] [--logits]
//
// ENGINE is what `edgeres build --input u8-nhwc` wrote (.onnx, or .blob of OpenVINO), its sidecar beside it. FRAME is a
// binary PPM, or bare bytes (height, width, 3); it has the engine's size. `--logits` prints all of them instead.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <sstream>
#include <stdexcept>

#include "engine.h"

namespace {

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read; check the path.");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::unique_ptr<Engine> open(const std::string& path, int threads) {
  const bool blob = path.size() > 5 && path.substr(path.size() - 5) == ".blob";
#ifdef WITH_OPENVINO
  if (blob) return open_openvino(path, threads);
#endif
#ifdef WITH_ONNXRUNTIME
  if (!blob) return open_onnxruntime(path, threads);
#endif
  throw std::runtime_error(path + " needs a runtime that this program was built without; see README.md.");
}

// The pixels of a frame: what follows a PPM's header, or all of a file of bare bytes.
std::string pixels(const std::string& path, const Engine& engine) {
  std::string content = read(path);
  int width = engine.width, height = engine.height, largest = 255;
  if (content.rfind("P6", 0) == 0) {
    std::istringstream header(content);
    std::string magic;
    header >> magic >> width >> height >> largest;
    if (header && largest == 255) content.erase(0, static_cast<std::size_t>(header.tellg()) + 1);
  }
  const auto size = static_cast<std::size_t>(engine.width) * engine.height * 3;
  if (width != engine.width || height != engine.height || largest != 255 || content.size() != size)
    throw std::runtime_error(path + " is no frame of " + std::to_string(engine.width) + " x " +
                             std::to_string(engine.height) + " pixels with 8 bits each; resize and crop it first.");
  return content;
}

void append_utf8(std::string& text, unsigned code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xC0 | code >> 6);
    text += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    text += static_cast<char>(0xE0 | code >> 12);
    text += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    text += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    text += static_cast<char>(0xF0 | code >> 18);
    text += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    text += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    text += static_cast<char>(0x80 | (code & 0x3F));
  }
}

// The class names in an engine's sidecar: the strings of the one array called "classes". A program that reads JSON
// anyway has a library for it, which this one does without.
std::vector<std::string> class_names(const std::string& engine) {
  const std::string json = read(engine + ".json");
  std::vector<std::string> names;
  auto at = json.find("\"classes\": [");
  if (at == std::string::npos) return names;
  for (at += std::strlen("\"classes\": ["); at < json.size() && json[at] != ']'; ++at) {
    if (json[at] != '"') continue;
    std::string name;
    for (++at; at < json.size() && json[at] != '"'; ++at) {
      if (json[at] != '\\') {
        name += json[at];
        continue;
      }
      if (json[++at] != 'u') {
        name += json[at] == 'n' ? '\n' : json[at] == 't' ? '\t' : json[at];
        continue;
      }
      unsigned code = std::stoul(json.substr(at + 1, 4), nullptr, 16);
      at += 4;
      if (code >= 0xD800 && code < 0xDC00) {  // the first half of a surrogate pair
        code = 0x10000 + ((code - 0xD800) << 10) + (std::stoul(json.substr(at + 3, 4), nullptr, 16) - 0xDC00);
        at += 6;
      }
      append_utf8(name, code);
    }
    names.push_back(name);
  }
  return names;
}

void print_top(const std::vector<float>& logits, const std::vector<std::string>& names) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto one, auto other) { return logits[one] > logits[other]; });
  double total = 0;
  for (float logit : logits) total += std::exp(static_cast<double>(logit) - logits[order[0]]);
  for (std::size_t rank = 0; rank < std::min<std::size_t>(5, order.size()); ++rank) {
    const auto index = order[rank];
    const double share = std::exp(static_cast<double>(logits[index]) - logits[order[0]]) / total;
    const std::string name = index < names.size() ? names[index] : "class " + std::to_string(index);
    std::printf("%5.1f %%  %s\n", 100 * share, name.c_str());
  }
}

}  // namespace

int main(int count, char** given) try {
  std::vector<std::string> files;
  int threads = 0;
  bool all = false;
  for (int index = 1; index < count; ++index) {
    const std::string word = given[index];
    if (word == "--logits") {
      all = true;
    } else if (word == "--threads" && index + 1 < count) {
      threads = std::stoi(given[++index]);
    } else {
      files.push_back(word);
    }
  }
  if (files.size() != 2) {
    std::fprintf(stderr, "usage: classify ENGINE FRAME [--threads N] [--logits]\n");
    return 2;
  }
  const auto engine = open(files[0], threads);
  const std::string frame = pixels(files[1], *engine);
  const auto logits = engine->run(reinterpret_cast<const std::uint8_t*>(frame.data()));
  if (all) {
    for (float logit : logits) std::printf("%.9g\n", static_cast<double>(logit));
  } else {
    print_top(logits, class_names(files[0]));
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "classify: %s\n", error.what());
  return 3;
}
