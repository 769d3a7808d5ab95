// An OpenFeature client with a provider from npm: answers each question, a line of JSON, with a line of JSON.
//
// Runs beside the packages that tools.py installs, and knows nothing of Numerator.
//
//     node client.mjs ofrep '{"url": "http://…", "token": "…"}'      the server's provider: asks for each flag
//     node client.mjs web '{"url": "http://…", "token": "…", "context": {…}}'      the browser's: has all flags, hears of changes
//     node client.mjs flagd '{"host": "127.0.0.1", "port": 8015}'    evaluates by itself

import { createInterface } from "node:readline";

const [kind, given] = process.argv.slice(2);
const where = JSON.parse(given);
const headers = where.token ? [["Authorization", `Bearer ${where.token}`]] : [];

const clients = {
  async ofrep() {
    const { OpenFeature } = await import("@openfeature/server-sdk");
    const { OFREPProvider } = await import("@openfeature/ofrep-provider");
    await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: where.url, headers }));
    return OpenFeature.getClient();
  },
  async web() {
    globalThis.EventSource = (await import("eventsource")).EventSource; // browsers have one
    const { OpenFeature } = await import("@openfeature/web-sdk");
    const { OFREPWebProvider } = await import("@openfeature/ofrep-web-provider");
    await OpenFeature.setContext(where.context ?? {});
    await OpenFeature.setProviderAndWait(
      new OFREPWebProvider({ baseUrl: where.url, headers, cacheMode: "disabled" }),
    );
    return OpenFeature.getClient();
  },
  async flagd() {
    const { OpenFeature } = await import("@openfeature/server-sdk");
    const { FlagdProvider } = await import("@openfeature/flagd-provider");
    await OpenFeature.setProviderAndWait(
      new FlagdProvider({
        resolverType: "in-process", host: where.host, port: where.port, tls: false, deadlineMs: 20000,
        retryBackoffMaxMs: 1000,
      }),
    );
    return OpenFeature.getClient();
  },
};

const client = await clients[kind]();
const ask = (asked) => {
  const name = `get${{ boolean: "Boolean", string: "String", integer: "Number", float: "Number", object: "Object" }[asked.type]}Details`;
  return kind === "web" ? client[name](asked.key, asked.default) : client[name](asked.key, asked.default, asked.context);
};
console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  const { value, variant, reason, errorCode, flagMetadata } = await ask(JSON.parse(line));
  console.log(JSON.stringify({ value, variant, reason, error: errorCode ?? null, metadata: flagMetadata }));
}
process.exit(0);
