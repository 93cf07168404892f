// An engine that takes camera bytes, whatever runtime it is for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

class Engine {
 public:
  virtual ~Engine() = default;

  // Height and width of a frame, in pixels.
  int height = 0, width = 0;

  // The logits of one frame, uint8 (height, width, 3), in the channel order that the engine was built for.
  virtual std::vector<float> run(const std::uint8_t* frame) = 0;
};

// Each throws std::exception where the file is no engine that takes frames; `threads` 0 leaves the runtime's default.
std::unique_ptr<Engine> open_onnxruntime(const std::string& path, int threads);
std::unique_ptr<Engine> open_openvino(const std::string& path, int threads);
