// The part of ONNX Runtime's C interface that this package calls itself:
// sessions, runs and their values, with as few crossings from Go to C as can
// be. doc.go says why.
//
// A function that can fail returns NULL, or a status which the caller hands to
// mg_error exactly once. Running out of memory for a few bytes of bookkeeping
// ends the process, as it does in Go.

#ifndef MODELGATE_ORT_SHIM_H
#define MODELGATE_ORT_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct OrtAllocator OrtAllocator;
typedef struct OrtEnv OrtEnv;
typedef struct OrtKeyValuePairs OrtKeyValuePairs;
typedef struct OrtMapTypeInfo OrtMapTypeInfo;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtSequenceTypeInfo OrtSequenceTypeInfo;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtStatus OrtStatus;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtValue OrtValue;

// mg_logger is what the runtime calls to log.
typedef void (*mg_logger)(void *, int, const char *, const char *, const char *, const char *);

// The functions used, each with its place in the runtime's table. The table
// only ever grows at its end, so that a place is fixed for good; the test
// TestTable compares them with the header of onnxruntime_go. Enumerations are
// ints here, as C compilers make them.
#define MG_TABLE(F) \
  F(2, const char *, GetErrorMessage, (const OrtStatus *)) \
  F(3, OrtStatus *, CreateEnv, (int, const char *, OrtEnv **)) \
  F(8, OrtStatus *, CreateSessionFromArray, \
    (const OrtEnv *, const void *, size_t, const OrtSessionOptions *, OrtSession **)) \
  F(9, OrtStatus *, Run, \
    (OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t, const char *const *, \
     size_t, OrtValue **)) \
  F(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **)) \
  F(13, OrtStatus *, SetSessionExecutionMode, (OrtSessionOptions *, int)) \
  F(17, OrtStatus *, DisableMemPattern, (OrtSessionOptions *)) \
  F(22, OrtStatus *, SetSessionLogSeverityLevel, (OrtSessionOptions *, int)) \
  F(23, OrtStatus *, SetSessionGraphOptimizationLevel, (OrtSessionOptions *, int)) \
  F(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int)) \
  F(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int)) \
  F(30, OrtStatus *, SessionGetInputCount, (const OrtSession *, size_t *)) \
  F(31, OrtStatus *, SessionGetOutputCount, (const OrtSession *, size_t *)) \
  F(33, OrtStatus *, SessionGetInputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **)) \
  F(34, OrtStatus *, SessionGetOutputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **)) \
  F(36, OrtStatus *, SessionGetInputName, (const OrtSession *, size_t, OrtAllocator *, char **)) \
  F(37, OrtStatus *, SessionGetOutputName, (const OrtSession *, size_t, OrtAllocator *, char **)) \
  F(39, OrtStatus *, CreateRunOptions, (OrtRunOptions **)) \
  F(41, OrtStatus *, RunOptionsSetRunLogSeverityLevel, (OrtRunOptions *, int)) \
  F(46, OrtStatus *, RunOptionsSetTerminate, (OrtRunOptions *)) \
  F(47, OrtStatus *, RunOptionsUnsetTerminate, (OrtRunOptions *)) \
  F(48, OrtStatus *, CreateTensorAsOrtValue, (OrtAllocator *, const int64_t *, size_t, int, OrtValue **)) \
  F(49, OrtStatus *, CreateTensorWithDataAsOrtValue, \
    (const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int, OrtValue **)) \
  F(53, OrtStatus *, GetStringTensorDataLength, (const OrtValue *, size_t *)) \
  F(54, OrtStatus *, GetStringTensorContent, (const OrtValue *, void *, size_t, size_t *, size_t)) \
  F(55, OrtStatus *, CastTypeInfoToTensorInfo, (const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **)) \
  F(56, OrtStatus *, GetOnnxTypeFromTypeInfo, (const OrtTypeInfo *, int *)) \
  F(60, OrtStatus *, GetTensorElementType, (const OrtTensorTypeAndShapeInfo *, int *)) \
  F(61, OrtStatus *, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo *, size_t *)) \
  F(62, OrtStatus *, GetDimensions, (const OrtTensorTypeAndShapeInfo *, int64_t *, size_t)) \
  F(67, OrtStatus *, GetValueType, (const OrtValue *, int *)) \
  F(69, OrtStatus *, CreateCpuMemoryInfo, (int, int, OrtMemoryInfo **)) \
  F(76, OrtStatus *, AllocatorFree, (OrtAllocator *, void *)) \
  F(78, OrtStatus *, GetAllocatorWithDefaultOptions, (OrtAllocator **)) \
  F(80, OrtStatus *, GetValue, (const OrtValue *, int, OrtAllocator *, OrtValue **)) \
  F(81, OrtStatus *, GetValueCount, (const OrtValue *, size_t *)) \
  F(92, void, ReleaseEnv, (OrtEnv *)) \
  F(93, void, ReleaseStatus, (OrtStatus *)) \
  F(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *)) \
  F(95, void, ReleaseSession, (OrtSession *)) \
  F(96, void, ReleaseValue, (OrtValue *)) \
  F(97, void, ReleaseRunOptions, (OrtRunOptions *)) \
  F(98, void, ReleaseTypeInfo, (OrtTypeInfo *)) \
  F(100, void, ReleaseSessionOptions, (OrtSessionOptions *)) \
  F(103, OrtStatus *, CastTypeInfoToMapTypeInfo, (const OrtTypeInfo *, const OrtMapTypeInfo **)) \
  F(104, OrtStatus *, CastTypeInfoToSequenceTypeInfo, (const OrtTypeInfo *, const OrtSequenceTypeInfo **)) \
  F(105, OrtStatus *, GetMapKeyType, (const OrtMapTypeInfo *, int *)) \
  F(106, OrtStatus *, GetMapValueType, (const OrtMapTypeInfo *, OrtTypeInfo **)) \
  F(107, OrtStatus *, GetSequenceElementType, (const OrtSequenceTypeInfo *, OrtTypeInfo **)) \
  F(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *, const char *)) \
  F(131, OrtStatus *, CreateAllocator, (const OrtSession *, const OrtMemoryInfo *, OrtAllocator **)) \
  F(132, void, ReleaseAllocator, (OrtAllocator *)) \
  F(252, OrtStatus *, GetResizedStringTensorElementBuffer, (OrtValue *, size_t, size_t, char **)) \
  F(266, OrtStatus *, SetUserLoggingFunction, (OrtSessionOptions *, mg_logger, void *)) \
  F(293, OrtStatus *, SessionOptionsSetLoadCancellationFlag, (OrtSessionOptions *, bool)) \
  F(298, void, GetKeyValuePairs, (const OrtKeyValuePairs *, const char *const **, const char *const **, size_t *)) \
  F(300, void, ReleaseKeyValuePairs, (OrtKeyValuePairs *)) \
  F(318, OrtStatus *, GetTensorSizeInBytes, (const OrtValue *, size_t *)) \
  F(319, OrtStatus *, AllocatorGetStats, (const OrtAllocator *, OrtKeyValuePairs **)) \
  F(378, OrtStatus *, GetTensorData, (const OrtValue *, const void **)) \
  F(390, bool, TensorTypeAndShape_HasShape, (const OrtTensorTypeAndShapeInfo *)) \
  F(414, OrtStatus *, GetTensorElementTypeAndShapeDataReference, \
    (const OrtValue *, int *, const int64_t **, size_t *))

// MG_API is the version of the table asked for: that of the functions above
// which came last.
#define MG_API 24

// What a value is; the numbers are the runtime's (ONNXType).
enum { MG_TENSOR = 1, MG_SEQUENCE = 2, MG_MAP = 3 };

// MG_STRING is the element type of strings (TensorProto.STRING).
enum { MG_STRING = 8 };

// mg_input is a tensor that goes in. Nothing of it may lie on the Go heap.
typedef struct {
  void *data;         // the elements; of strings, their bytes end to end
  const size_t *ends; // of strings: where each ends in data
  int64_t *shape;     // room for rank dimensions, made by mg_run_new
  size_t rank;
  size_t bytes;    // length of data
  size_t elements; // of strings: how many
  int32_t type;
} mg_input;

// mg_output is a value that came out; all pointers belong to value.
typedef struct {
  OrtValue *value;
  const void *data; // the elements; NULL for strings
  const int64_t *shape;
  size_t rank;
  size_t bytes; // length of data
  int32_t kind; // MG_TENSOR, MG_SEQUENCE, MG_MAP, or another number of the runtime
  int32_t type; // of a tensor
} mg_output;

// mg_run is what one run needs, made once and used for many, by one at a time.
typedef struct {
  OrtRunOptions *options;
  mg_input *in;
  mg_output *out;
  OrtValue **in_values;   // held between mg_run_do and mg_run_done
  OrtValue **out_values;  // likewise
  const char **out_names; // of the outputs wanted
  size_t inputs;
  size_t outputs; // wanted this time
} mg_run;

// mg_parts are the tensors inside a sequence or map.
typedef struct {
  mg_output *tensors;
  size_t count;
} mg_parts;

// mg_info describes an input or output of a session.
typedef struct {
  char *name;
  int64_t *shape; // NULL: rank unknown
  size_t rank;
  int32_t kind;    // MG_TENSOR, MG_SEQUENCE, MG_MAP, or another number of the runtime
  int32_t element; // of a sequence: the kind of its elements
  int32_t type;    // element type of the tensor, or of the map's values
  int32_t key;     // of maps
} mg_info;

// mg_open loads the library, for good, and reports its version. It returns
// NULL or what went wrong.
const char *mg_open(const char *path, const char **version);
// mg_attach gets the functions and what all sessions share, and loads a first
// model to see that it works, by which mg_arena asks. It comes after mg_open
// and after the environment was made. It returns NULL or what went wrong.
const char *mg_attach(const void *probe, size_t size);
// mg_detach gives back what mg_attach got.
void mg_detach(void);

// mg_error copies the message of a status, shortened to size - 1 bytes, and
// releases the status.
void mg_error(OrtStatus *status, char *message, size_t size);

OrtStatus *mg_options_new(OrtSessionOptions **out);
void mg_options_free(OrtSessionOptions *options);
// mg_options_cancel asks the load that uses the options to end.
OrtStatus *mg_options_cancel(OrtSessionOptions *options);

OrtStatus *mg_session_new(const void *model, size_t size, const OrtSessionOptions *options, OrtSession **out);
// mg_session_free must not overlap with a run.
void mg_session_free(OrtSession *session);
OrtStatus *mg_session_counts(const OrtSession *session, size_t *inputs, size_t *outputs);
// mg_session_info describes one input or output. mg_info_free follows it,
// whether it failed or not.
OrtStatus *mg_session_info(const OrtSession *session, bool output, size_t index, mg_info *out);
void mg_info_free(mg_info *info);
// mg_arena is the bytes in use in the memory that all sessions share.
int64_t mg_arena(void);

// mg_run_new makes a run for inputs of the ranks given and up to outputs
// outputs.
OrtStatus *mg_run_new(size_t inputs, const size_t *ranks, size_t outputs, mg_run **out);
void mg_run_free(mg_run *run);
// mg_run_terminate ends the run that goes on, and every later one until
// mg_run_resume.
OrtStatus *mg_run_terminate(mg_run *run);
OrtStatus *mg_run_resume(mg_run *run);
// mg_run_do runs the session and describes the outputs. mg_run_done follows
// it, whether it failed or not.
OrtStatus *mg_run_do(OrtSession *session, mg_run *run, const char *const *in_names);
void mg_run_done(mg_run *run);

// mg_parts_get takes a sequence or map apart: the tensors of a sequence of
// tensors, or keys and values in turn. mg_parts_free follows it, whether it
// failed or not.
OrtStatus *mg_parts_get(const OrtValue *value, mg_parts *out);
void mg_parts_free(mg_parts *parts);

// mg_strings_size is the bytes of all strings of a tensor together.
OrtStatus *mg_strings_size(const OrtValue *value, size_t *bytes);
// mg_strings_get copies them end to end, and where each of count begins.
OrtStatus *mg_strings_get(const OrtValue *value, void *bytes, size_t size, size_t *starts, size_t count);

#endif
