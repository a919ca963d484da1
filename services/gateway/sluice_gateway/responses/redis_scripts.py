"""What Redis does in one step: each script looks first at whether it is still the caller's to do."""

from typing import Final

# Keys: lease, stream, hash, set of running. Arguments: token, first, count, body, limit of bytes, state, error, answer,
# milliseconds that the events and the answer are kept, id.
APPEND: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local first, count = tonumber(ARGV[2]), tonumber(ARGV[3])
local last = tonumber(redis.call('HGET', KEYS[3], 'last') or '0')
if count > 0 and last < first then
  redis.call('XADD', KEYS[2], ARGV[2] .. '-' .. ARGV[3], 'b', ARGV[4])
  last = first + count - 1
  redis.call('HSET', KEYS[3], 'last', last)
  local size = redis.call('HINCRBY', KEYS[3], 'size', #ARGV[4])
  while size > tonumber(ARGV[5]) and redis.call('XLEN', KEYS[2]) > 1 do
    local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    redis.call('XDEL', KEYS[2], oldest[1])
    size = redis.call('HINCRBY', KEYS[3], 'size', -#oldest[2][2])
  end
end
if ARGV[6] ~= '' then
  redis.call('XADD', KEYS[2], (last + 1) .. '-0', 'e', '1')
  redis.call('HSET', KEYS[3], 'state', ARGV[6], 'error', ARGV[7], 'answer', ARGV[8])
  redis.call('PEXPIRE', KEYS[2], ARGV[9])
  redis.call('PEXPIRE', KEYS[3], ARGV[10])
  redis.call('SREM', KEYS[4], ARGV[11])
  redis.call('DEL', KEYS[1])
end
return 1
"""
FREE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
RENEW: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
