"""What the other halves of benches have in common: they answer questions on stdin."""
import json
import resource
import sys
import time


def time_of(work):
    """Milliseconds."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def serve(about, times, peak_bytes=None):
    """Says what this is; then answers `<count>` with `times(count)`, milliseconds, and peak memory. An empty line ends."""
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        found = times(int(line))
        peak = peak_bytes() if peak_bytes else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"ms": found, "peak_bytes": peak}), flush=True)


