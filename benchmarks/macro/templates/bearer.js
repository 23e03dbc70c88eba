// HS256 bearer tokens for nginx with njs: the subject of a good token, else "" (the configuration then says 401).
import crypto from 'crypto';

const SECRET = '@SECRET@';

function part(text) {
    return JSON.parse(Buffer.from(text, 'base64url').toString());
}

function subject(request) {
    const authorization = request.headersIn.Authorization;
    if (!authorization || !authorization.startsWith('Bearer ')) {
        return '';
    }
    const parts = authorization.slice(7).split('.');
    if (parts.length !== 3) {
        return '';
    }
    try {
        if (part(parts[0]).alg !== 'HS256') {
            return '';
        }
        const signature = crypto.createHmac('sha256', SECRET).update(parts[0] + '.' + parts[1]).digest('base64url');
        if (signature !== parts[2]) {
            return '';
        }
        const claims = part(parts[1]);
        const inTime = typeof claims.exp === 'number' && claims.exp * 1000 > Date.now();
        return inTime && claims.tenant === 'acme' && claims.sub ? claims.sub : '';
    } catch (error) {
        return '';
    }
}

export default { subject };
