-- The request of an API client in a browser: Host and eight headers, the same for every gateway and workload.
--   BENCH_TOKEN    the bearer token
--   BENCH_ROUTES   N: spread the requests over /api/svc0000/... to N-1 (the URL's own path is then not used)
wrk.headers = {
    ["Accept"] = "application/json, text/plain, */*",
    ["Accept-Language"] = "en-GB,en;q=0.9,de;q=0.7",
    ["Accept-Encoding"] = "gzip, deflate, br",
    ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    ["Origin"] = "https://app.example.com",
    ["Referer"] = "https://app.example.com/orders",
    ["X-Api-Key"] = "client-0001",
    ["Authorization"] = "Bearer " .. os.getenv("BENCH_TOKEN"),
}

local routes = tonumber(os.getenv("BENCH_ROUTES") or "0")
if routes > 0 then
    local prepared, at = {}, 0
    init = function()
        for i = 0, routes - 1 do
            prepared[i] = wrk.format("GET", string.format("/api/svc%04d/item-%d", i, i))
        end
    end
    request = function()
        at = (at + 389) % routes -- a prime: neighbours in time are far apart in the table
        return prepared[at]
    end
end

-- one line for the harness
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        "BENCH requests=%d duration_us=%d bytes=%d mean_us=%.2f p50_us=%d p99_us=%d status_errors=%d socket_errors=%d\n",
        summary.requests, summary.duration, summary.bytes, latency.mean, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
