#include <onnxruntime_cxx_api.h>

#include <stdexcept>

#include "engine.h"

namespace {

Ort::Env& environment() {
  static Ort::Env made(ORT_LOGGING_LEVEL_ERROR, "classify");
  return made;
}

Ort::SessionOptions options(int threads) {
  Ort::SessionOptions made;
  if (threads > 0) made.SetIntraOpNumThreads(threads);
  return made;
}

class OnnxRuntime : public Engine {
 public:
  OnnxRuntime(const std::string& path, int threads) : session_(environment(), path.c_str(), options(threads)) {
    Ort::AllocatorWithDefaultOptions allocator;
    input_ = session_.GetInputNameAllocated(0, allocator).get();
    output_ = session_.GetOutputNameAllocated(0, allocator).get();
    const auto type = session_.GetInputTypeInfo(0);
    const auto info = type.GetTensorTypeAndShapeInfo();
    shape_ = info.GetShape();
    if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 || shape_.size() != 4 || shape_[3] != 3)
      throw std::runtime_error(path + " takes no frames; build it with `--input u8-nhwc`.");
    if (shape_[0] > 1) throw std::runtime_error(path + " takes several frames a call; build it with batch 1.");
    shape_[0] = 1;
    height = static_cast<int>(shape_[1]);
    width = static_cast<int>(shape_[2]);
  }

  std::vector<float> run(const std::uint8_t* frame) override {
    // The tensor is a view: nothing is copied, and nothing writes to the frame.
    auto given = Ort::Value::CreateTensor<std::uint8_t>(memory_, const_cast<std::uint8_t*>(frame),
                                                        static_cast<std::size_t>(height) * width * 3, shape_.data(), 4);
    const char *inputs[] = {input_.c_str()}, *outputs[] = {output_.c_str()};
    const auto found = session_.Run(Ort::RunOptions{nullptr}, inputs, &given, 1, outputs, 1);
    const float* logits = found[0].GetTensorData<float>();
    return {logits, logits + found[0].GetTensorTypeAndShapeInfo().GetElementCount()};
  }

 private:
  Ort::Session session_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::string input_, output_;
  std::vector<std::int64_t> shape_;
};

}  // namespace

std::unique_ptr<Engine> open_onnxruntime(const std::string& path, int threads) {
  return std::make_unique<OnnxRuntime>(path, threads);
}
