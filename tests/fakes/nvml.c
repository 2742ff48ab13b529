/* A fake libnvidia-ml.so.1 for the real Python bindings. It reads its state at every call from the text file
 * that FAKE_NVML_STATE names, one fact a line:
 *
 *   init CODE                           what opening the driver answers (0: fine)
 *   hang init|memory                    that call never returns
 *   crash memory                        that call ends the process
 *   gpu CODE TOTAL USED PROCESSES NAME  a card; CODE is the answer to the memory question, PROCESSES that to
 *                                       the question for processes
 *   compute GPU PID USED                a process on a card; USED may be "na"
 *   graphics GPU PID USED
 *   use GPU PERCENT REASONS             how busy a card is, and why its clocks are low; without it, not supported
 *
 * Structures and codes are those of nvml.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, MAX_GPUS = 8, MAX_PROCESSES = 64 };
static const unsigned long long NOT_AVAILABLE = ~0ULL;

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
} process_t;

typedef struct {
    int code, processes_code;
    unsigned long long total, used;
    char name[96];
} gpu_t;

typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { int known; unsigned int percent; unsigned long long reasons; } use_t;

static struct {
    int init, hang_init, hang_memory, crash_memory, gpus;
    gpu_t gpu[MAX_GPUS];
    use_t use[MAX_GPUS];
} state;

/* Reads the file; with a list given, also the processes of that kind on that card. */
static unsigned int read_state(const char *kind, int card, process_t *list)
{
    char line[256], word[32], used[32];
    unsigned int count = 0, pid;
    use_t use = {1, 0, 0};
    int on;
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    memset(&state, 0, sizeof state);
    while (file && fgets(line, sizeof line, file)) {
        gpu_t *gpu = &state.gpu[state.gpus < MAX_GPUS ? state.gpus : MAX_GPUS - 1];
        if (sscanf(line, "init %d", &state.init) == 1) continue;
        if (!strcmp(line, "hang init\n")) state.hang_init = 1;
        else if (!strcmp(line, "hang memory\n")) state.hang_memory = 1;
        else if (!strcmp(line, "crash memory\n")) state.crash_memory = 1;
        else if (sscanf(line, "gpu %d %llu %llu %d %95[^\n]", &gpu->code, &gpu->total, &gpu->used,
                        &gpu->processes_code, gpu->name) == 5) state.gpus++;
        else if (sscanf(line, "use %d %u %llu", &on, &use.percent, &use.reasons) == 3) state.use[on] = use;
        else if (kind && sscanf(line, "%31s %d %u %31s", word, &on, &pid, used) == 4
                 && !strcmp(word, kind) && on == card && count < MAX_PROCESSES) {
            list[count].pid = pid;
            list[count].used = strcmp(used, "na") ? strtoull(used, NULL, 10) : NOT_AVAILABLE;
            list[count].gpu_instance = list[count].compute_instance = ~0U;
            count++;
        }
    }
    if (file) fclose(file);
    return count;
}

static void hang(void) { for (;;) pause(); }

int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    read_state(NULL, 0, NULL);
    if (state.hang_init) hang();
    return state.init;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "in the fake driver's words"; }

int nvmlDeviceGetCount_v2(unsigned int *count)
{
    read_state(NULL, 0, NULL);
    *count = (unsigned int)state.gpus;
    return SUCCESS;
}

/* A handle is the card's number, from 1. */
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle)
{
    if ((int)index >= state.gpus) return INVALID_ARGUMENT;
    *handle = (void *)(size_t)(index + 1);
    return SUCCESS;
}

static int card_of(void *handle) { return (int)(size_t)handle - 1; }

int nvmlDeviceGetName(void *handle, char *name, unsigned int length)
{
    snprintf(name, length, "%s", state.gpu[card_of(handle)].name);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory)
{
    read_state(NULL, 0, NULL);
    if (state.hang_memory) hang();
    if (state.crash_memory) abort();
    const gpu_t *gpu = &state.gpu[card_of(handle)];
    memory->total = gpu->total;
    memory->used = gpu->used;
    memory->free = gpu->total - gpu->used;
    return gpu->code;
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates)
{
    rates->gpu = rates->memory = state.use[card_of(handle)].percent;
    return state.use[card_of(handle)].known ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons)
{
    *reasons = state.use[card_of(handle)].reasons;
    return state.use[card_of(handle)].known ? SUCCESS : NOT_SUPPORTED;
}

static int processes(const char *kind, void *handle, unsigned int *count, process_t *out)
{
    process_t list[MAX_PROCESSES];
    unsigned int found = read_state(kind, card_of(handle), list);
    int code = state.gpu[card_of(handle)].processes_code;
    if (code) return code;
    unsigned int room = *count;
    *count = found;
    if (room < found) return INSUFFICIENT_SIZE;
    memcpy(out, list, found * sizeof *list);
    return SUCCESS;
}

#ifdef OLD_DRIVER /* before 510 */
#define LISTS(name) name##_v2
#else
#define LISTS(name) name##_v3
#endif

int LISTS(nvmlDeviceGetComputeRunningProcesses)(void *handle, unsigned int *count, process_t *out)
{
    return processes("compute", handle, count, out);
}

int LISTS(nvmlDeviceGetGraphicsRunningProcesses)(void *handle, unsigned int *count, process_t *out)
{
    return processes("graphics", handle, count, out);
}
