-- Posts the JPEGs that the arguments name in turn; what was measured is printed as one line of JSON.
local posts, at = {}, 0

function init(arguments)
   for _, path in ipairs(arguments) do
      local file = assert(io.open(path, "rb"))
      posts[#posts + 1] = wrk.format("POST", nil, {["Content-Type"] = "image/jpeg"}, file:read("*a"))
      file:close()
   end
end

function request()
   at = at % #posts + 1
   return posts[at]
end

function done(summary, latency, _)
   local errors = summary.errors
   print(string.format(
      '{"requests": %d, "duration_us": %d, "latency_p50_us": %d, "latency_p99_us": %d, "errors": ' ..
      '{"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
