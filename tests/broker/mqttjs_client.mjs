// Drives MQTT.js against a broker and prints one JSON object with what it saw.
// Usage: node mqttjs_client.mjs URL VERSION [CA]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(new URL("../peers/package.json", import.meta.url));
const mqtt = require("mqtt");

const [url, version, ca] = process.argv.slice(2);
const base = { protocolVersion: Number(version), reconnectPeriod: 0, connectTimeout: 5000 };
if (version === "3") base.protocolId = "MQIsdp";
if (ca) base.ca = readFileSync(ca);
const v5 = version === "5";

function messages(client) {
  const queue = [];
  const waiting = [];
  client.on("message", (topic, payload, packet) => {
    const found = { topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain };
    if (v5 && packet.properties) found.user = packet.properties.userProperties;
    if (waiting.length) waiting.shift()(found);
    else queue.push(found);
  });
  return () =>
    queue.length ? Promise.resolve(queue.shift()) : new Promise((resolve) => waiting.push(resolve));
}

const seen = {};
const connect = (options) => mqtt.connectAsync(url, { ...base, ...options });

const client = await connect({ clientId: "js" });
const next = messages(client);
seen.granted = (await client.subscribeAsync({ "js/+": { qos: 2 } })).map((grant) => grant.qos);
seen.messages = [];
for (const qos of [0, 1, 2]) {
  const properties = v5 ? { userProperties: { unit: "C" } } : undefined;
  await client.publishAsync("js/t", `m${qos}`, { qos, properties });
  seen.messages.push(await next());
}

await client.publishAsync("js/kept", "kept", { qos: 1, retain: true });
await next();
const late = await connect({ clientId: "late" });
const nextLate = messages(late);
await late.subscribeAsync("js/kept");
seen.retained = await nextLate();
await client.publishAsync("js/kept", "", { qos: 1, retain: true });
await next();
await nextLate();
await late.endAsync();

const keep = { clean: false, ...(v5 ? { properties: { sessionExpiryInterval: 60 } } : {}) };
let away = await connect({ clientId: "away", ...keep });
await away.subscribeAsync("away/t", { qos: 1 });
await away.endAsync();
await client.publishAsync("away/t", "missed", { qos: 1 });
const queue = [];
away = mqtt.connect(url, { ...base, clientId: "away", ...keep });
const nextAway = messages(away);
away.on("connect", (connack) => queue.push(connack.sessionPresent));
seen.missed = await nextAway();
seen.present = queue[0];
await away.endAsync();

const mortal = await connect({
  clientId: "mortal",
  will: { topic: "js/will", payload: Buffer.from("gone"), qos: 1, retain: false },
});
mortal.stream.destroy();
seen.will = await next();

await client.unsubscribeAsync("js/+");
await client.publishAsync("js/t", "unheard", { qos: 1 });
await client.endAsync();
console.log(JSON.stringify(seen));
