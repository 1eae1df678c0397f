-- Plays recorded requests in a circle: wrk … -s play.lua URL -- FILE FIRST [count]
--
-- FILE holds requests, each after a line with its length in bytes. In a request, @@@@@@@@@@ becomes a number that no
-- other request has, counted from FIRST. With `count`, answers are counted by status; that costs wrk some time, so it
-- is for the warm-up alone.
local requests, unique, at, number = {}, {}, 0, 0
local MARK = "@@@@@@@@@@"
local threads = {}
statuses = ""
local counts = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  number = tonumber(args[2])
  while true do
    local length = file:read("*l")
    if not length then break end
    local text = file:read(tonumber(length))
    table.insert(requests, text)
    table.insert(unique, text:find(MARK, 1, true) ~= nil)
  end
  file:close()
  if args[3] == "count" then
    response = function(status)
      counts[status] = (counts[status] or 0) + 1
      local texts = {}
      for code, count in pairs(counts) do
        table.insert(texts, string.format('"%d":%d', code, count))
      end
      statuses = table.concat(texts, ",")
    end
  end
end

function request()
  at = at % #requests + 1
  local text = requests[at]
  if unique[at] then
    number = number + 1
    return (text:gsub(MARK, string.format("%010d", number)))
  end
  return text
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    'BENCH {"requests":%d,"microseconds":%d,"p50":%.1f,"p99":%.1f,"p999":%.1f,"bad":%d,"lost":%d,"statuses":{%s}}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9), errors.status, errors.connect + errors.read + errors.write + errors.timeout, threads[1]:get("statuses")))
end
