-- HS256 bearer tokens for nginx with Lua: OpenSSL's HMAC through the FFI, claims by cjson.
-- require("bearer").check() answers 401 itself, or puts X-User-Id on the request and takes Authorization off.
local ffi = require "ffi"
local cjson = require "cjson.safe"
local from_base64url = require("ngx.base64").decode_base64url

ffi.cdef [[
const void *EVP_sha256(void);
unsigned char *HMAC(const void *md, const void *key, int key_len, const unsigned char *data, size_t len,
                    unsigned char *digest, unsigned int *digest_len);
int CRYPTO_memcmp(const void *a, const void *b, size_t len);
]]

local crypto = ffi.C
local sha256 = crypto.EVP_sha256()
local digest = ffi.new("unsigned char[32]")
local digest_len = ffi.new("unsigned int[1]")
local secret = "@SECRET@"

local function json_part(text)
    local raw = from_base64url(text)
    local value = raw and cjson.decode(raw)
    return type(value) == "table" and value or nil
end

-- the claims of a token that is well signed, in time and of our tenant
local function verified(authorization)
    local token = authorization and authorization:match("^Bearer ([%w_%-%.]+)$")
    if not token then return nil end
    local first = token:find(".", 1, true)
    local second = first and token:find(".", first + 1, true)
    if not second or token:find(".", second + 1, true) then return nil end

    local header = json_part(token:sub(1, first - 1))
    if not header or header.alg ~= "HS256" then return nil end

    local signed = token:sub(1, second - 1)
    local signature = from_base64url(token:sub(second + 1))
    if not signature or #signature ~= 32 then return nil end
    crypto.HMAC(sha256, secret, #secret, signed, #signed, digest, digest_len)
    if crypto.CRYPTO_memcmp(digest, signature, 32) ~= 0 then return nil end

    local claims = json_part(token:sub(first + 1, second - 1))
    if not claims or type(claims.exp) ~= "number" or claims.exp <= ngx.time() then return nil end
    if claims.tenant ~= "acme" or type(claims.sub) ~= "string" then return nil end
    return claims
end

return {
    check = function()
        local claims = verified(ngx.var.http_authorization)
        if not claims then
            ngx.header["WWW-Authenticate"] = "Bearer"
            return ngx.exit(401)
        end
        ngx.req.set_header("X-User-Id", claims.sub)
        ngx.req.clear_header("Authorization")
    end,
}
