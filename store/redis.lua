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

local stored = redis.call('GET', KEYS[1])
if stored then
	local w = cmsgpack.unpack(stored)
	if w[1] == period then
		head = math.max(head, w[#w - 1]) -- a clock that went backwards frees nothing
		for i = 2, #w, 2 do
			if w[i] >= head - 60 then
				slots[#slots + 1] = w[i]
				slots[#slots + 1] = w[i + 1]
				used = used + w[i + 1]
			end
		end
	else -- what is still in use under the old period counts as used just now
		local oldest = math.floor(now / math.ceil(w[1] / 60)) - 60
		for i = 2, #w, 2 do
			if w[i] >= oldest then used = used + w[i + 1] end
		end
		if used > 0 then slots = { head, used } end
	end
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

if refused == 0 and count ~= 0 then
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
