// SPDX-License-Identifier: Apache-2.0
// An inference runtime as the measured procedure sees it. Adapters live in src/runtimes/; none of their headers leak.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "melt/clock.h"
#include "melt/memory.h"
#include "melt/recorder.h"

namespace melt {

class TextCodec;

struct ModelOptions {
  std::string path;              ///< model file; for the synthetic runtime a description, see runtimes/synthetic.cpp
  std::uint32_t n_ctx = 2048;    ///< context length in tokens; 0: the model's own
  std::uint32_t n_batch = 2048;  ///< most tokens in one evaluate call
  std::uint32_t n_ubatch = 512;  ///< most tokens in one graph
  std::uint32_t n_threads = 1;
  bool use_mmap = true;
  bool check_tensors = false;   ///< refuse NaN and infinite weights
  bool repack = true;           ///< copy weights into the layout of this CPU's best kernels (AMX, REPACK)
  std::string kv_type = "f16";  ///< ggml's name of the type of K and V in the cache: f32 f16 bf16 q8_0 q4_0 ...
  /// For a runtime that is opened at run time: folders or libraries to look in, separated by ':'; empty: where it
  /// looks.
  std::string runtime_path;
  std::string model_lib;  ///< for a runtime whose models are compiled: the library; empty: the one beside the weights
  /// For a runtime without a tokenizer of its own; null: it takes token ids only.
  std::shared_ptr<const TextCodec> text;
  /// Called with 0..1 while loading; return false to cancel.
  std::function<bool(float)> on_progress;
  /// Evaluation stops soon after this becomes true. May be null; must outlive the session.
  const std::atomic<bool>* cancel = nullptr;
  /// Where the runtime notes the buffers that it allocates and releases. May be null; must outlive the session.
  AllocationLog* allocations = nullptr;
};

/// What a session holds of one kind in one kind of buffer.
struct MemoryPart {
  std::string category;  ///< weights, repack, kv (with recurrent state), compute, output
  std::string buffer;    ///< the runtime's name of the buffer type, e.g. "CPU_Mapped"
  std::uint64_t bytes = 0;
};

/// What a session would hold, found without reading a weight.
struct MemoryForecast {
  std::vector<MemoryPart> parts;
  std::uint32_t n_ctx = 0;  ///< as the runtime rounds it
  /// Of this process with the model's vocabulary and the bookkeeping of its cache, but without `parts`: what lies in
  /// memory, and the private writable memory it reserves (what RLIMIT_DATA counts). NaN where the system does not say.
  double process_resident_bytes = 0;
  double process_reserved_bytes = 0;
};

struct ModelInfo {
  std::string name;
  std::string architecture;
  std::string quantization;  ///< as upstream writes it, e.g. "Q4_1"
  std::uint64_t n_params = 0;
  std::uint64_t size_bytes = 0;  ///< of all tensors
  std::uint32_t n_layer = 0;
  std::uint32_t n_vocab = 0;
  std::uint32_t n_ctx = 0;  ///< of this session
  std::uint32_t n_ctx_train = 0;
  std::uint32_t n_batch = 0;
  std::vector<MemoryPart> memory;  ///< as the runtime reports it; empty if it does not
};

/// temperature 0 is greedy: the highest logit, the lowest id among equals. Else top-k, top-p, temperature, seeded draw.
struct SamplerOptions {
  float temperature = 0.0f;
  std::int32_t top_k = 40;
  float top_p = 0.95f;
  std::uint32_t seed = 0;
};

struct ChatMessage {
  std::string role;
  std::string content;
};

/// Text in and out. Thread-safe.
class TextCodec {
 public:
  virtual ~TextCodec() = default;
  virtual std::vector<std::int32_t> encode(std::string_view text, bool add_special, bool parse_special) const = 0;
  virtual std::string decode(const std::vector<std::int32_t>& ids) const = 0;
  /// The messages in the model's own chat format, ready for the assistant's turn.
  /// Raises: Error(kModel) if the model has no template or one the runtime does not know.
  virtual std::string format_chat(const std::vector<ChatMessage>& messages) const = 0;
  virtual bool is_end_of_text(std::int32_t id) const = 0;
};

enum class EvalStatus { kOk, kCancelled, kContextFull };

/// Loaded model + context + KV cache. One caller at a time.
class Session {
 public:
  virtual ~Session() = default;
  virtual const ModelInfo& info() const noexcept = 0;
  virtual const TextCodec& text() const noexcept = 0;
  /// The seam for level `ops`; null if this runtime cannot offer it.
  virtual OpSource* ops() noexcept = 0;
  /// Empties the KV cache and starts a new sampler.
  virtual void reset(const SamplerOptions& sampler) = 0;
  /// Evaluates `n` tokens (1 <= n <= n_batch) after those before; logits of the last one are kept. Synchronous.
  /// Raises: Error(kInvalidArgument) for n or an id out of range; Error(kRuntime) if the runtime fails.
  virtual EvalStatus evaluate(const std::int32_t* ids, std::size_t n) = 0;
  /// Draws the next token from the last evaluated logits. Raises: Error(kRuntime) if there are none.
  virtual std::int32_t sample() = 0;
  /// Logits of the last evaluated token, [n_vocab] float32, until the next call; null if there are none to be had.
  virtual const float* logits() noexcept { return nullptr; }
};

class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual std::string name() const = 0;
  /// Version, commit, build flags, CPU features compiled in: for the trace's metadata.
  virtual std::vector<std::pair<std::string, std::string>> details() const = 0;
  /// The clock its events are stamped with.
  virtual std::unique_ptr<Clock> make_clock(const ModelOptions& options) const = 0;
  /// Raises: Error(kModel | kOutOfMemory | kInvalidArgument | kCancelled).
  virtual std::unique_ptr<Session> load(const ModelOptions& options, Clock& clock) const = 0;
  /// Sizes of all that load() would allocate, from the file's header; takes about as long as reading the vocabulary.
  /// Raises: Error(kModel | kOutOfMemory); Error(kInvalidArgument) if this runtime has no memory to speak of.
  virtual MemoryForecast predict_memory(const ModelOptions& options) const = 0;
  /// Loads a model file's vocabulary alone. Raises: Error(kModel).
  virtual std::unique_ptr<TextCodec> load_text(const std::string& path) const = 0;
};

/// Names of the runtimes compiled into this build, e.g. {"synthetic", "llama.cpp"}.
std::vector<std::string> runtime_names();

/// Raises: Error(kInvalidArgument) that lists the names there are.
std::unique_ptr<Runtime> make_runtime(const std::string& name);

}  // namespace melt
