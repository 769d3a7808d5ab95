// A certified OpenID provider (oidc-provider from npm), for one client and the users that it is told of.
//
// Runs beside the packages that tools.py installs, and knows nothing of Numerator. Its keys are new each time it starts.
//
//     node provider.mjs '{"issuer": "http://127.0.0.1:…", "client": {…}, "users": {"li": {"email": "…", "email_verified": true}}}'

import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import Provider from 'oidc-provider';

const told = JSON.parse(process.argv[2]);
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const provider = new Provider(told.issuer, {
  clients: [told.client],
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256' }] },
  cookies: { keys: ['of no secret'] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  pkce: { required: () => true },
  // Its own pages: any password will do.
  features: { devInteractions: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...told.users[id] }) }),
});

const { hostname, port } = new URL(told.issuer);
createServer(provider.callback()).listen(Number(port), hostname, () => console.log('ready'));
