// SPDX-License-Identifier: Apache-2.0
// Loaded models.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <optional>

#include "bind.h"
#include "interrupt.h"
#include "py_session.h"
#include "py_text.h"

namespace py = pybind11;

namespace melt::python {
namespace {

/// decode() gives bytes: a token may end inside a character.
py::bytes decoded(const TextCodec& text, const std::vector<std::int32_t>& ids) {
  return py::bytes(text.decode(ids));
}

using Progress = std::function<void(float)>;

std::unique_ptr<PySession> load(const std::string& runtime, const py::bytes& path, std::uint32_t n_ctx,
                                std::uint32_t n_batch, std::uint32_t n_ubatch, std::uint32_t n_threads, bool use_mmap,
                                bool check_tensors, bool repack, const std::string& kv_type,
                                const std::string& runtime_path, const std::string& model_lib, const py::object& text,
                                const std::optional<Progress>& on_progress) {
  auto session = std::make_unique<PySession>();
  ModelOptions options;
  options.path = path;
  options.n_ctx = n_ctx;
  options.n_batch = n_batch;
  options.n_ubatch = n_ubatch;
  options.n_threads = n_threads;
  options.use_mmap = use_mmap;
  options.check_tensors = check_tensors;
  options.repack = repack;
  options.kv_type = kv_type;
  options.runtime_path = runtime_path;
  options.model_lib = model_lib;
  options.text = python_text(text);
  options.cancel = &session->cancel;
  std::exception_ptr raised;  // by the callback: a runtime would take it for a fault of its own
  if (on_progress) {
    options.on_progress = [&](float done) {  // pybind11's std::function takes the GIL around each call into Python
      try {
        (*on_progress)(done);
      } catch (...) {
        raised = std::current_exception();
      }
      return raised == nullptr;
    };
  }
  try {
    const py::gil_scoped_release release;
    const InterruptScope interrupt(session->cancel);
    session->model = std::make_unique<LoadedModel>(runtime, options);
  } catch (...) {
    if (raised)
      std::rethrow_exception(raised);
    if (PyErr_CheckSignals() != 0)
      throw py::error_already_set();
    throw;
  }
  return session;
}

void bind_info(py::module_& m) {
  py::class_<ModelInfo>(m, "ModelInfo", "What a session has loaded.")
      .def_readonly("name", &ModelInfo::name)
      .def_readonly("architecture", &ModelInfo::architecture)
      .def_readonly("quantization", &ModelInfo::quantization)
      .def_readonly("n_params", &ModelInfo::n_params)
      .def_readonly("size_bytes", &ModelInfo::size_bytes)
      .def_readonly("n_layer", &ModelInfo::n_layer)
      .def_readonly("n_vocab", &ModelInfo::n_vocab)
      .def_readonly("n_ctx", &ModelInfo::n_ctx)
      .def_readonly("n_ctx_train", &ModelInfo::n_ctx_train)
      .def_readonly("n_batch", &ModelInfo::n_batch)
      .def_readonly("memory", &ModelInfo::memory, "What the session holds, as the runtime reports it.");
}

}  // namespace

void bind_sessions(py::module_& m) {
  bind_info(m);
  py::class_<TextCodec>(m, "Tokenizer", "A model file's vocabulary.")
      .def(py::init([](const std::string& runtime, const py::bytes& path_bytes) {
             const std::string path = path_bytes;
             const py::gil_scoped_release release;
             return make_runtime(runtime)->load_text(path);
           }),
           py::arg("runtime"), py::arg("path"))
      .def("encode", &TextCodec::encode, py::arg("text"), py::arg("add_special"), py::arg("parse_special"),
           "Token ids of a text.")
      .def("decode", &decoded, py::arg("ids"), "Text of token ids, as bytes: a token may end inside a character.");
  py::class_<PySession>(m, "Session", "Loaded model + context + KV cache. One run at a time.")
      .def(py::init(&load), py::arg("runtime"), py::arg("path"), py::kw_only(), py::arg("n_ctx"), py::arg("n_batch"),
           py::arg("n_ubatch"), py::arg("n_threads"), py::arg("use_mmap"), py::arg("check_tensors"), py::arg("repack"),
           py::arg("kv_type"), py::arg("runtime_path"), py::arg("model_lib"), py::arg("text"), py::arg("on_progress"))
      .def_property_readonly(
          "info", [](PySession& self) { return self.model->use([](Session& session) { return session.info(); }); })
      .def(
          "encode",
          [](PySession& self, const std::string& text, bool add_special, bool parse_special) {
            const py::gil_scoped_release release;
            return self.model->use(
                [&](Session& session) { return session.text().encode(text, add_special, parse_special); });
          },
          py::arg("text"), py::arg("add_special"), py::arg("parse_special"), "Token ids of a text.")
      .def(
          "decode",
          [](PySession& self, const std::vector<std::int32_t>& ids) {
            std::string text;
            {
              const py::gil_scoped_release release;
              text = self.model->use([&](Session& session) { return session.text().decode(ids); });
            }
            return py::bytes(text);
          },
          py::arg("ids"), "Text of token ids, as bytes.")
      .def(
          "format_chat",
          [](PySession& self, const std::vector<std::pair<std::string, std::string>>& messages) {
            std::vector<ChatMessage> chat;
            for (const auto& [role, content] : messages)
              chat.push_back({role, content});
            const py::gil_scoped_release release;
            return self.model->use([&](Session& session) { return session.text().format_chat(chat); });
          },
          py::arg("messages"), "(role, content) pairs in the model's own chat format.")
      .def(
          "cancel", [](PySession& self) { self.cancel.store(true); },
          "Ends the run under way, if any, between two ops. Call from any thread.")
      .def(
          "close",
          [](PySession& self) {
            self.refuse_within_run("close()");
            const py::gil_scoped_release release;
            self.model->unload();
          },
          "Frees the model; waits for a run under way. Calling it twice is harmless.");
}

}  // namespace melt::python
