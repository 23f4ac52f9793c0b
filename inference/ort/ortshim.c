#include "ortshim.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

// The way in: the two functions of the table before the table.
typedef struct {
  const void *const *(*GetApi)(uint32_t);
  const char *(*GetVersionString)(void);
} mg_base;

#define MG_FIELD(place, result, name, parameters) result(*name) parameters;
static struct {
  MG_TABLE(MG_FIELD)
} ort;

static const mg_base *base;
static OrtEnv *env;
static OrtMemoryInfo *cpu;
static OrtAllocator *allocator;
static OrtSession *probe;
static OrtAllocator *arena;

// zeroed is calloc that does not fail.
static void *zeroed(size_t count, size_t size) {
  void *p = calloc(count ? count : 1, size);
  if (!p) abort();
  return p;
}

// tidy gives freed memory back to the system. Loading a model frees as much as
// it keeps, and glibc would hold on to that for ever: without this, a session
// costs twice its weights and closing it gives half of that back.
static void tidy(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

// TRY returns the status of a call that failed.
#define TRY(call)                   \
  do {                              \
    OrtStatus *status_ = (call);    \
    if (status_) return status_;    \
  } while (0)

static void mute(void *param, int severity, const char *category, const char *id, const char *place,
                 const char *message) {
  (void)param, (void)severity, (void)category, (void)id, (void)place, (void)message;
}

const char *mg_open(const char *path, const char **version) {
  *version = NULL;
  // Never closed: threads and destructors of the library may outlive an engine.
  void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!library) return dlerror();
  const mg_base *(*get)(void) = (const mg_base *(*)(void))dlsym(library, "OrtGetApiBase");
  if (!get || !(base = get())) return "it is no ONNX Runtime";
  *version = base->GetVersionString();
  return NULL;
}

static void drop(OrtStatus *status) {
  if (status) ort.ReleaseStatus(status);
}

static OrtStatus *attach(const void *model, size_t size) {
  TRY(ort.CreateEnv(4, "modelgate", &env)); // what onnxruntime_go made, counted once more
  TRY(ort.CreateCpuMemoryInfo(1, 0, &cpu)); // an arena's, the default memory
  TRY(ort.GetAllocatorWithDefaultOptions(&allocator));
  OrtSessionOptions *options = NULL;
  TRY(mg_options_new(&options));
  OrtStatus *status = mg_session_new(model, size, options, &probe);
  mg_options_free(options);
  TRY(status);
  return ort.CreateAllocator(probe, cpu, &arena);
}

const char *mg_attach(const void *model, size_t size) {
  const void *const *table = base->GetApi(MG_API);
  if (!table) return "it is too old";
#define MG_FILL(place, result, name, parameters) ort.name = (result(*) parameters)table[place];
  MG_TABLE(MG_FILL)
  OrtStatus *status = attach(model, size);
  if (!status) return NULL;
  drop(status);
  mg_detach();
  return "it can't load a model of one node";
}

void mg_detach(void) {
  if (arena) ort.ReleaseAllocator(arena);
  if (probe) ort.ReleaseSession(probe);
  if (cpu) ort.ReleaseMemoryInfo(cpu);
  if (env) ort.ReleaseEnv(env);
  arena = NULL;
  probe = NULL;
  cpu = NULL;
  env = NULL;
}

void mg_error(OrtStatus *status, char *message, size_t size) {
  strncpy(message, ort.GetErrorMessage(status), size - 1);
  message[size - 1] = 0;
  ort.ReleaseStatus(status);
}

static OrtStatus *configure(OrtSessionOptions *o) {
  TRY(ort.SetIntraOpNumThreads(o, 1));
  TRY(ort.SetInterOpNumThreads(o, 1));
  TRY(ort.SetSessionExecutionMode(o, 0));            // sequential
  TRY(ort.SetSessionGraphOptimizationLevel(o, 99));  // all
  TRY(ort.SetSessionLogSeverityLevel(o, 4));         // fatal
  TRY(ort.SetUserLoggingFunction(o, mute, NULL));
  // Patterns are kept for every combination of shapes ever seen.
  TRY(ort.DisableMemPattern(o));
  TRY(ort.AddSessionConfigEntry(o, "session.use_env_allocators", "1"));
  // Else bytes that look like the runtime's own format are read as such.
  TRY(ort.AddSessionConfigEntry(o, "session.load_model_format", "ONNX"));
  // A load that computes larger constants can't be ended; a run that does can.
  TRY(ort.AddSessionConfigEntry(o, "optimization.constant_folding_max_output_size_in_bytes", "16777216"));
  TRY(ort.AddSessionConfigEntry(o, "session.intra_op.allow_spinning", "0"));
  TRY(ort.AddSessionConfigEntry(o, "session.inter_op.allow_spinning", "0"));
  return NULL;
}

OrtStatus *mg_options_new(OrtSessionOptions **out) {
  TRY(ort.CreateSessionOptions(out));
  OrtStatus *status = configure(*out);
  if (status) {
    ort.ReleaseSessionOptions(*out);
    *out = NULL;
  }
  return status;
}

void mg_options_free(OrtSessionOptions *options) { ort.ReleaseSessionOptions(options); }

OrtStatus *mg_options_cancel(OrtSessionOptions *options) {
  return ort.SessionOptionsSetLoadCancellationFlag(options, true);
}

OrtStatus *mg_session_new(const void *model, size_t size, const OrtSessionOptions *options, OrtSession **out) {
  OrtStatus *status = ort.CreateSessionFromArray(env, model, size, options, out);
  tidy();
  return status;
}

void mg_session_free(OrtSession *session) {
  ort.ReleaseSession(session);
  tidy();
}

OrtStatus *mg_session_counts(const OrtSession *session, size_t *inputs, size_t *outputs) {
  TRY(ort.SessionGetInputCount(session, inputs));
  return ort.SessionGetOutputCount(session, outputs);
}

// describe_tensor reads element type and shape; type belongs to the caller.
static OrtStatus *describe_tensor(const OrtTypeInfo *type, mg_info *out) {
  const OrtTensorTypeAndShapeInfo *tensor = NULL;
  int element = 0;
  TRY(ort.CastTypeInfoToTensorInfo(type, &tensor));
  if (!tensor) return NULL;
  TRY(ort.GetTensorElementType(tensor, &element));
  out->type = element;
  if (!ort.TensorTypeAndShape_HasShape(tensor)) return NULL;
  TRY(ort.GetDimensionsCount(tensor, &out->rank));
  out->shape = zeroed(out->rank, sizeof *out->shape);
  return ort.GetDimensions(tensor, out->shape, out->rank);
}

static OrtStatus *describe_map(const OrtTypeInfo *type, mg_info *out) {
  const OrtMapTypeInfo *map = NULL;
  OrtTypeInfo *value = NULL;
  int key = 0;
  TRY(ort.CastTypeInfoToMapTypeInfo(type, &map));
  if (!map) return NULL;
  TRY(ort.GetMapKeyType(map, &key));
  out->key = key;
  TRY(ort.GetMapValueType(map, &value));
  OrtStatus *status = describe_tensor(value, out);
  ort.ReleaseTypeInfo(value);
  return status;
}

static OrtStatus *describe(const OrtTypeInfo *type, mg_info *out) {
  int kind = 0, element = 0;
  TRY(ort.GetOnnxTypeFromTypeInfo(type, &kind));
  out->kind = kind;
  if (kind == MG_TENSOR) return describe_tensor(type, out);
  if (kind == MG_MAP) return describe_map(type, out);
  if (kind != MG_SEQUENCE) return NULL;
  const OrtSequenceTypeInfo *sequence = NULL;
  OrtTypeInfo *inner = NULL;
  TRY(ort.CastTypeInfoToSequenceTypeInfo(type, &sequence));
  if (!sequence) return NULL;
  TRY(ort.GetSequenceElementType(sequence, &inner));
  OrtStatus *status = ort.GetOnnxTypeFromTypeInfo(inner, &element);
  out->element = element;
  if (!status && element == MG_TENSOR) status = describe_tensor(inner, out);
  if (!status && element == MG_MAP) status = describe_map(inner, out);
  ort.ReleaseTypeInfo(inner);
  return status;
}

OrtStatus *mg_session_info(const OrtSession *session, bool output, size_t index, mg_info *out) {
  OrtTypeInfo *type = NULL;
  char *name = NULL;
  memset(out, 0, sizeof *out);
  TRY(output ? ort.SessionGetOutputName(session, index, allocator, &name)
             : ort.SessionGetInputName(session, index, allocator, &name));
  out->name = strdup(name);
  drop(ort.AllocatorFree(allocator, name));
  TRY(output ? ort.SessionGetOutputTypeInfo(session, index, &type)
             : ort.SessionGetInputTypeInfo(session, index, &type));
  OrtStatus *status = describe(type, out);
  ort.ReleaseTypeInfo(type);
  return status;
}

void mg_info_free(mg_info *info) {
  free(info->name);
  free(info->shape);
}

int64_t mg_arena(void) {
  OrtKeyValuePairs *stats = NULL;
  const char *const *keys = NULL, *const *values = NULL;
  size_t count = 0;
  int64_t bytes = 0;
  OrtStatus *status = ort.AllocatorGetStats(arena, &stats);
  if (status) {
    drop(status);
    return 0;
  }
  ort.GetKeyValuePairs(stats, &keys, &values, &count);
  for (size_t i = 0; i < count; i++)
    if (!strcmp(keys[i], "InUse")) bytes = strtoll(values[i], NULL, 10);
  ort.ReleaseKeyValuePairs(stats);
  return bytes;
}

OrtStatus *mg_run_new(size_t inputs, const size_t *ranks, size_t outputs, mg_run **out) {
  mg_run *run = zeroed(1, sizeof *run);
  run->in = zeroed(inputs, sizeof *run->in);
  run->out = zeroed(outputs, sizeof *run->out);
  run->in_values = zeroed(inputs, sizeof *run->in_values);
  run->out_values = zeroed(outputs, sizeof *run->out_values);
  run->out_names = zeroed(outputs, sizeof *run->out_names);
  run->inputs = inputs;
  for (size_t i = 0; i < inputs; i++) {
    run->in[i].rank = ranks[i];
    run->in[i].shape = zeroed(ranks[i], sizeof *run->in[i].shape);
  }
  OrtStatus *status = ort.CreateRunOptions(&run->options);
  if (!status) status = ort.RunOptionsSetRunLogSeverityLevel(run->options, 4);
  if (status) {
    mg_run_free(run);
    return status;
  }
  *out = run;
  return NULL;
}

void mg_run_free(mg_run *run) {
  if (run->options) ort.ReleaseRunOptions(run->options);
  for (size_t i = 0; i < run->inputs; i++) free(run->in[i].shape);
  free(run->in);
  free(run->out);
  free(run->in_values);
  free(run->out_values);
  free(run->out_names);
  free(run);
}

OrtStatus *mg_run_terminate(mg_run *run) { return ort.RunOptionsSetTerminate(run->options); }

OrtStatus *mg_run_resume(mg_run *run) { return ort.RunOptionsUnsetTerminate(run->options); }

static OrtStatus *make_strings(const mg_input *t, OrtValue **out) {
  TRY(ort.CreateTensorAsOrtValue(allocator, t->shape, t->rank, MG_STRING, out));
  const char *bytes = t->data;
  size_t start = 0;
  for (size_t i = 0; i < t->elements; i++) {
    char *to = NULL;
    size_t size = t->ends[i] - start;
    TRY(ort.GetResizedStringTensorElementBuffer(*out, i, size, &to));
    if (size) memcpy(to, bytes + start, size);
    start = t->ends[i];
  }
  return NULL;
}

static OrtStatus *make(const mg_input *t, OrtValue **out) {
  if (t->type == MG_STRING) return make_strings(t, out);
  return ort.CreateTensorWithDataAsOrtValue(cpu, t->data, t->bytes, t->shape, t->rank, t->type, out);
}

// look describes a value that came out. An optional output may be none.
static OrtStatus *look(OrtValue *value, mg_output *out) {
  int kind = 0, type = 0;
  memset(out, 0, sizeof *out);
  out->value = value;
  if (!value) return NULL;
  TRY(ort.GetValueType(value, &kind));
  out->kind = kind;
  if (kind != MG_TENSOR) return NULL;
  TRY(ort.GetTensorElementTypeAndShapeDataReference(value, &type, &out->shape, &out->rank));
  out->type = type;
  if (type == MG_STRING) return NULL;
  TRY(ort.GetTensorSizeInBytes(value, &out->bytes));
  return ort.GetTensorData(value, &out->data);
}

OrtStatus *mg_run_do(OrtSession *session, mg_run *run, const char *const *in_names) {
  for (size_t i = 0; i < run->inputs; i++) TRY(make(&run->in[i], &run->in_values[i]));
  TRY(ort.Run(session, run->options, in_names, (const OrtValue *const *)run->in_values, run->inputs, run->out_names,
              run->outputs, run->out_values));
  for (size_t i = 0; i < run->outputs; i++) TRY(look(run->out_values[i], &run->out[i]));
  return NULL;
}

void mg_run_done(mg_run *run) {
  for (size_t i = 0; i < run->inputs; i++) {
    if (run->in_values[i]) ort.ReleaseValue(run->in_values[i]);
    run->in_values[i] = NULL;
  }
  for (size_t i = 0; i < run->outputs; i++) {
    if (run->out_values[i]) ort.ReleaseValue(run->out_values[i]);
    run->out_values[i] = NULL;
  }
}

// take appends part `index` of a sequence or map.
static OrtStatus *take(const OrtValue *value, int index, mg_parts *out) {
  OrtValue *part = NULL;
  TRY(ort.GetValue(value, index, allocator, &part));
  return look(part, &out->tensors[out->count++]);
}

static OrtStatus *take_map(const OrtValue *map, mg_parts *out) {
  TRY(take(map, 0, out));
  return take(map, 1, out);
}

OrtStatus *mg_parts_get(const OrtValue *value, mg_parts *out) {
  int kind = 0;
  size_t count = 1;
  out->tensors = NULL;
  out->count = 0;
  TRY(ort.GetValueType(value, &kind));
  if (kind == MG_SEQUENCE) TRY(ort.GetValueCount(value, &count));
  out->tensors = zeroed(2 * count, sizeof *out->tensors);
  if (kind == MG_MAP) return take_map(value, out);
  for (size_t i = 0; i < count; i++) {
    TRY(take(value, (int)i, out));
    if (out->tensors[out->count - 1].kind != MG_MAP) continue;
    OrtValue *map = out->tensors[--out->count].value;
    OrtStatus *status = take_map(map, out);
    ort.ReleaseValue(map);
    if (status) return status;
  }
  return NULL;
}

void mg_parts_free(mg_parts *parts) {
  for (size_t i = 0; i < parts->count; i++) ort.ReleaseValue(parts->tensors[i].value);
  free(parts->tensors);
}

OrtStatus *mg_strings_size(const OrtValue *value, size_t *bytes) {
  return ort.GetStringTensorDataLength(value, bytes);
}

OrtStatus *mg_strings_get(const OrtValue *value, void *bytes, size_t size, size_t *starts, size_t count) {
  return ort.GetStringTensorContent(value, bytes, size, starts, count);
}
