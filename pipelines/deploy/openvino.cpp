#include <fstream>
#include <openvino/openvino.hpp>
#include <stdexcept>

#include "engine.h"

namespace {

class OpenVino : public Engine {
 public:
  OpenVino(const std::string& path, int threads) {
    // As edgeres runs it: FP32 stays FP32 where the CPU has bfloat16.
    ov::AnyMap config{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                      ov::hint::inference_precision(ov::element::f32)};
    if (threads > 0) config.insert(ov::inference_num_threads(threads));
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " cannot be read; check the path.");
    compiled_ = core_.import_model(file, "CPU", config);
    const auto shape = compiled_.input().get_partial_shape();
    if (compiled_.input().get_element_type() != ov::element::u8 || shape.size() != 4 || shape[3] != 3)
      throw std::runtime_error(path + " takes no frames; build it with `--input u8-nhwc`.");
    if (shape[0].is_static() && shape[0] != 1)
      throw std::runtime_error(path + " takes several frames a call; build it with batch 1.");
    height = static_cast<int>(shape[1].get_length());
    width = static_cast<int>(shape[2].get_length());
    request_ = compiled_.create_infer_request();
  }

  std::vector<float> run(const std::uint8_t* frame) override {
    // The tensor is a view: nothing is copied, and nothing writes to the frame.
    const ov::Shape shape{1, static_cast<std::size_t>(height), static_cast<std::size_t>(width), 3};
    request_.set_input_tensor(ov::Tensor(ov::element::u8, shape, const_cast<std::uint8_t*>(frame)));
    request_.infer();
    auto found = request_.get_output_tensor(0);
    const float* logits = found.data<float>();
    return {logits, logits + found.get_size()};
  }

 private:
  ov::Core core_;
  ov::CompiledModel compiled_;
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Engine> open_openvino(const std::string& path, int threads) {
  return std::make_unique<OpenVino>(path, threads);
}
