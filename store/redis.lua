-- One step of a window that slides, as api.Sliding has it: the period is cut
-- into 60 slots, and what was granted in a slot counts until the whole slot is
-- older than the period.
--
-- KEYS[1] is the window. ARGV: units (negative gives back), limit, period in
-- microseconds, how long Redis keeps the window in milliseconds, and the time
-- in microseconds, empty for Redis's own.
-- Answers {1 when refused, units in use, in how many microseconds the units
-- that were refused, else all, are back}.
--
-- A window is stored as one packed list: the period, then for each slot that
-- is in use its number and its units, the oldest first. At most 123 numbers.
local count, limit, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[5])
if not now then
	local t = redis.call('TIME')
	now = t[1] * 1000000 + t[2]
end
local width = math.ceil(period / 60)
local head = math.floor(now / width)
local slots, used = {}, 0 -- slot, units, slot, units, ...

-- What some other client wrote in the window's place is no window. An error
-- would count as a Redis that fails, and stop sign-in for everybody.
local function window(text)
	if type(text) ~= 'string' then return nil end
	local ok, w = pcall(cmsgpack.unpack, text)
	if not ok or type(w) ~= 'table' or #w < 3 or #w > 123 or #w % 2 == 0 then return nil end
	for i = 1, #w do
		local n = w[i]
		if type(n) ~= 'number' or n < 0 or n > 2 ^ 53 or n ~= math.floor(n) then return nil end
	end
	if w[1] < 1 then return nil end
	return w
end

local stored = redis.pcall('GET', KEYS[1])
local w = window(stored)
local moved = false -- what is in use counts as used just now
if w then
	local oldest = math.max(head, w[#w - 1]) - 60 -- a clock that went backwards frees nothing
	if w[1] ~= period then
		moved = true
		oldest = math.floor(now / math.ceil(w[1] / 60)) - 60
	elseif w[#w - 1] > head + 60 then
		moved = true -- by so much that what was granted since must not wait for the old time
	else
		head = math.max(head, w[#w - 1])
	end
	for i = 2, #w, 2 do
		if w[i] >= oldest then
			used = used + w[i + 1]
			if not moved then
				slots[#slots + 1] = w[i]
				slots[#slots + 1] = w[i + 1]
			end
		end
	end
	if moved and used > 0 then slots = { head, used } end
end

local refused = 0
if count < 0 then -- the newest go back first
	local back = math.min(-count, used)
	used = used - back
	while back > 0 do
		local n = math.min(back, slots[#slots])
		back = back - n
		slots[#slots] = slots[#slots] - n
		if slots[#slots] == 0 then
			slots[#slots] = nil
			slots[#slots] = nil
		end
	end
elseif count > limit - used then
	refused = 1
elseif count > 0 then
	used = used + count
	if slots[#slots - 1] == head then
		slots[#slots] = slots[#slots] + count
	else
		slots[#slots + 1] = head
		slots[#slots + 1] = count
	end
end

if moved or refused == 0 and count ~= 0 then -- else a move would begin anew each time
	if used > 0 then
		redis.call('SET', KEYS[1], cmsgpack.pack({ period, unpack(slots) }), 'PX', ARGV[4])
	elseif stored then
		redis.call('DEL', KEYS[1])
	end
end

local need, free = used, head
if refused == 1 then need = count - (limit - used) end
for i = 1, #slots, 2 do
	if need <= 0 then break end
	need = need - slots[i + 1]
	free = slots[i] + 61
end
if need > 0 then free = head + 61 end
return { refused, used, free * width - now }
