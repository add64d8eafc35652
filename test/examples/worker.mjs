// A worker in JavaScript, to be copied as a template. README.md says how to run
// it; worker.go and worker.py are the same worker in Go and Python.
import { createHmac, timingSafeEqual } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, nanos } from "@nats-io/transport-node";

// The server remembers under this name which events the worker has acknowledged.
// Give each worker its own name; processes that share the name share the events.
const durable = "example-javascript";

const maxAttempts = 10; // with the delays below, 17 minutes
const handlerTimeout = 600_000; // progress reports must not hide a handler that hangs
const fetchWait = 5_000; // at most so long does an idle worker take to stop

const env = process.env;
const ackWait = Number(env.ACK_WAIT_MS || 30_000); // the server delivers an event again after so long without a sign of life
const firstRetry = Number(env.RETRY_MS || 1_000); // delay before the second attempt; it doubles with each attempt
const folder = env.WORKER_DIR || durable; // one file per job with its last status, one with its output
// During a rotation, both secrets: the stream has events signed with either.
const secrets = (env.SYNC_WEBHOOK_SECRET ?? "").split(/[,\n]/).filter(Boolean);
if (secrets.length === 0) throw new Error("SYNC_WEBHOOK_SECRET is not set");

// A status replaces only one of a lower rank: what is final stays.
const rank = new Map(Object.entries({ PENDING: 1, PROCESSING: 2, COMPLETED: 3, FAILED: 3, REJECTED: 3, CANCELED: 3, TIMED_OUT: 3 }));

// authentic reports whether the provider signed the data: the header is
// "t=<Unix time>,v1=<hex>", and v1 is the HMAC-SHA256 of "<t>.<data>". The age of
// the signature is not checked again: the bridge did so when the event came, and
// since then the event may have waited for days.
function authentic(header, data) {
  const fields = header.split(",").map((field) => field.trim().split("="));
  const t = fields.find(([name]) => name === "t")?.[1];
  const signatures = fields.filter(([name]) => name === "v1").map(([, hex]) => Buffer.from(hex ?? "", "hex"));
  return secrets.some((secret) => {
    const expected = createHmac("sha256", secret).update(`${t}.`).update(data).digest();
    return signatures.some((signature) => signature.length === expected.length && timingSafeEqual(signature, expected));
  });
}

// handle is the work: put yours here. This one downloads what a completed job
// made. If the process dies before the status is stored, handle runs again for
// the same event: doing it twice must be as good as once.
async function handle(job) {
  if (job.status !== "COMPLETED") return;
  const response = await fetch(job.outputUrl, { signal: AbortSignal.timeout(handlerTimeout) });
  if (!response.ok) throw new Error(`${job.outputUrl}: ${response.status}`);
  await replace(join(folder, `${job.id}.output`), Buffer.from(await response.arrayBuffer()));
}

// replace writes a file that a crash leaves either old or new.
async function replace(path, content) {
  await writeFile(`${path}.tmp`, content);
  await rename(`${path}.tmp`, path);
}

// once verifies an event and handles it, unless it is old news.
async function once(m) {
  // Everything below is read from the signed data: nobody signs the headers. A bad
  // signature is tried again like any failure, because the usual cause is a secret
  // that this worker does not have yet.
  if (!authentic(m.headers?.get("Sync-Signature") ?? "", m.data)) throw new Error("the signature does not match");
  const job = m.json();
  if (typeof job?.id !== "string" || !/^[A-Za-z0-9_-]{1,128}$/.test(job.id) || !rank.has(job.status)) {
    console.error(`${m.subject} is nothing for this worker: ${m.string()}`);
    return;
  }
  const statusFile = join(folder, `${job.id}.status`);
  const last = await readFile(statusFile, "utf8").catch((err) => {
    if (err.code !== "ENOENT") throw err;
  });
  if (rank.get(job.status) <= (rank.get(last) ?? 0)) {
    console.error(`job ${job.id} is ${last} already: ${job.status} changes nothing`);
    return; // a repeat, or older than what is known
  }
  await handle(job);
  // With several processes, use a database, and check and store the status in one
  // transaction: two of them can have events of one job at the same time.
  await replace(statusFile, job.status);
}

// processEvent handles an event and acknowledges it after that, never before. An
// event whose handler fails, or whose worker dies, is delivered again.
async function processEvent(m) {
  if (m.info.deliveryCount > maxAttempts) {
    // The event stays in the stream, for a person to look at.
    console.error(`event ${m.seq}: given up after ${maxAttempts} attempts; see it with: nats stream get JOBS ${m.seq}`);
    return m.term();
  }
  // While the handler works, the server must not give the event to another process.
  const progress = setInterval(() => m.working(), ackWait / 3);
  try {
    await once(m);
  } catch (err) {
    const delay = firstRetry * 2 ** (m.info.deliveryCount - 1);
    console.error(`event ${m.seq}, attempt ${m.info.deliveryCount}: ${err.message}; again in ${delay} ms`);
    return m.nak(delay);
  } finally {
    clearInterval(progress);
  }
  await m.ackAck(); // waits up to 5 s for the server to confirm
}

await mkdir(folder, { recursive: true, mode: 0o700 });
console.error("connecting");
const nc = await connect({
  servers: (env.NATS_URL || "127.0.0.1:4222").split(","),
  user: env.NATS_USER || undefined,
  pass: env.NATS_PASSWORD || undefined,
  waitOnFirstConnect: true, // the bridge may start later,
  maxReconnectAttempts: -1, // or restart: connect for ever
});
const stopping = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => { // a second one ends the process at once
    console.error("stopping after the present event");
    stopping.abort();
  });
}
while (!stopping.signal.aborted) {
  try {
    // Creates the consumer if it does not exist. No max_deliver: the server would
    // drop the event without telling the worker.
    const manager = await jetstreamManager(nc);
    const config = { durable_name: durable, filter_subject: "job.>", ack_policy: AckPolicy.Explicit, ack_wait: nanos(ackWait) };
    await manager.consumers.add("JOBS", config);
    const consumer = await jetstream(nc).consumers.get("JOBS", durable);
    console.error(`waiting for events as ${durable}`);
    // One event after the other. For more at once, run more processes: an event that
    // waits in a local buffer loses its ack_wait there.
    while (!stopping.signal.aborted) {
      const m = await consumer.next({ expires: fetchWait });
      if (m) await processEvent(m); // otherwise no event came
    }
  } catch (err) {
    console.error(`trying again in a second: ${err.message}`);
    await sleep(1_000, undefined, { signal: stopping.signal }).catch(() => {});
  }
}
await nc.close();
