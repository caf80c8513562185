"""Single-image load: `wrk` on one thread, posting the same PNGs to every server.

wrk is a closed loop: each connection asks again as soon as it is answered. So throughput times
mean latency is the number of connections, and the latencies of two servers compare only at the
same number of connections.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import BenchmarkError, Running

# Requests are formatted once: wrk only takes the next one. `done` prints one line of JSON.
_SCRIPT = """
local bodies = {%(bodies)s}
local headers = {%(headers)s}
local requests, index = {}, 0
init = function(args)
  for i, body in ipairs(bodies) do
    requests[i] = wrk.format("POST", %(path)s, headers, body)
  end
end
request = function()
  index = index %% #requests + 1
  return requests[index]
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%%d,"duration_us":%%d,"failed":%%d,"lost":%%d,' ..
    '"p50_us":%%d,"p99_us":%%d,"max_us":%%d}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw.

    Attributes:
        requests: answers received, of any status.
        seconds: how long it ran.
        failed: answers with a status other than 2xx or 3xx.
        lost: connections refused or broken, requests timed out.
        p50_ms, p99_ms, max_ms: latency, from the request's last byte to the answer's.
    """

    requests: int
    seconds: float
    failed: int
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return (self.requests - self.failed) / self.seconds

    @property
    def errors(self) -> int:
        """Requests without a good answer."""
        return self.failed + self.lost


def run(server: Running, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Post `bodies` in turn on a number of connections.

    Args:
        seconds: how long, at least 1; wrk takes whole seconds.

    Raises:
        BenchmarkError: wrk is missing or fails.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise BenchmarkError("wrk is not installed (Debian's package wrk)")
    with tempfile.TemporaryDirectory(prefix="wrk-") as folder:
        script = Path(folder) / "post.lua"
        script.write_text(lua_script(server.path, server.headers, bodies))
        done = subprocess.run(
            [
                wrk,
                *("-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"),
                *("--script", script, f"http://127.0.0.1:{server.port}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BenchmarkError(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def parse(printed: str) -> Load:
    """Read what wrk printed with the script above.

    Raises:
        BenchmarkError: the line of JSON is missing.
    """
    lines = [line for line in printed.splitlines() if line.startswith('{"requests":')]
    if not lines:
        raise BenchmarkError(f"wrk printed no result: {printed!r}")
    seen = json.loads(lines[-1])
    return Load(
        requests=seen["requests"],
        seconds=seen["duration_us"] / 1e6,
        failed=seen["failed"],
        lost=seen["lost"],
        p50_ms=seen["p50_us"] / 1000,
        p99_ms=seen["p99_us"] / 1000,
        max_ms=seen["max_us"] / 1000,
    )


def lua_script(path: str, headers: Mapping[str, str], bodies: Sequence[bytes]) -> str:
    """The script for wrk; bytes stand in it as decimal escapes, which Lua takes anywhere."""
    return _SCRIPT % {
        "bodies": ", ".join(_quote(body) for body in bodies),
        "headers": ", ".join(
            f"[{_quote(name.encode())}] = {_quote(value.encode())}"
            for name, value in headers.items()
        ),
        "path": _quote(path.encode()),
    }


def _quote(data: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in data) + '"'
