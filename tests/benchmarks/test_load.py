"""What is sent to wrk, and what is read from it."""

from __future__ import annotations

import pytest

from benchmarks import load
from benchmarks.processes import BenchmarkError

# As wrk 4.1 printed it, posting to a server that answered a third of the requests with 503.
PRINTED = """Running 2s test @ http://127.0.0.1:20080
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.03ms    1.02ms  30.10ms   91.30%
    Req/Sec    12.70k     1.20k   14.10k    80.00%
  25400 requests in 2.00s, 3.05MB read
  Non-2xx or 3xx responses: 8400
Requests/sec:  12700.00
Transfer/sec:      1.52MB

{"requests":25400,"duration_us":2000000,"failed":8400,"lost":2,"p50_us":4870,"p99_us":9120,\
"max_us":30100}
"""


def test_parse_reads_every_field() -> None:
    seen = load.parse(PRINTED)
    assert seen == load.Load(25400, 2.0, 8400, 2, 4.87, 9.12, 30.1)


def test_only_good_answers_count_as_throughput() -> None:
    seen = load.parse(PRINTED)
    assert seen.per_second == 8500.0
    assert seen.errors == 8402


def test_parse_refuses_output_without_a_result() -> None:
    with pytest.raises(BenchmarkError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_script_carries_any_bytes() -> None:
    script = load.lua_script("/p", {"Authorization": 'a"b'}, [b"\x00\xff\n", b'"\\'])
    assert r'local bodies = {"\000\255\010", "\034\092"}' in script
    header = "".join(f"\\{byte:03d}" for byte in b"Authorization")
    assert f'local headers = {{["{header}"] = "\\097\\034\\098"}}' in script
    assert 'wrk.format("POST", "\\047\\112", headers, body)' in script
    assert "index % #requests + 1" in script
