-- What wrk sends and what it reports. The body and the key are arguments (`wrk ... URL -- BODY KEY`), so that
-- `target.py` is the only place where they are written. The request is formatted once; no function is called for an
-- answer, because that would make the load generator the slower side.

function init(args)
   wrk.method = "POST"
   wrk.body = args[1]
   wrk.headers["Authorization"] = "Bearer " .. args[2]
   wrk.headers["Content-Type"] = "application/json"
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, '
         .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
