// A worker on the official JavaScript client of NATS:
//
//	node worker.mjs durable <url> <stream> <subject>   a durable consumer, every message acked
//	node worker.mjs core <url> <subject>               a plain subscription
//
// It prints "subscribed" when nothing that is sent from then on can be missed,
// one line of JSON per message, and when its standard input ends, whatever is
// still under way and "done", for a durable consumer with what it has left.
import { connect } from '@nats-io/transport-node';
import { AckPolicy, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';

const secret = process.env.SYNC_WEBHOOK_SECRET;
const [mode, url, ...args] = process.argv.slice(2);

// problems returns what a worker that trusts nobody finds wrong with a message.
// It judges by the data alone what the headers must be.
function problems(m) {
  const found = [];
  const want = (name, value) => {
    const got = m.headers?.get(name) ?? '';
    if (got !== value) found.push(`${name}: ${JSON.stringify(got)}, want ${JSON.stringify(value)}`);
  };
  const [, t, v1] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(m.headers?.get('Sync-Signature') ?? '') ?? [];
  // The data is what was signed, to the byte: no parsing and printing again.
  const expected = createHmac('sha256', secret).update(`${t}.`).update(m.data).digest();
  if (!v1 || !timingSafeEqual(Buffer.from(v1, 'hex'), expected)) found.push('signature does not match the data');

  const job = m.json();
  const named = job.id !== undefined && m.subject !== 'job.conflict';
  want('Job-Id', job.id ?? '');
  want('Job-Status', job.status);
  want('Nats-Msg-Id', named ? `sync:${job.id}:${job.status}` : `sha256:${createHash('sha256').update(m.data).digest('hex')}`);
  return found;
}

const print = (line) => console.log(typeof line === 'string' ? line : JSON.stringify(line));
const report = (m) =>
  print({
    subject: m.subject,
    data: Buffer.from(m.data).toString('base64'),
    signature: m.headers?.get('Sync-Signature') ?? '',
    problems: problems(m),
  });
const stdinEnds = new Promise((resolve) => process.stdin.resume().on('end', resolve));

const nc = await connect({ servers: url });
if (mode === 'durable') {
  const [stream, subject] = args;
  const jsm = await jetstreamManager(nc);
  await jsm.consumers.add(stream, { durable_name: 'worker', filter_subject: subject, ack_policy: AckPolicy.Explicit });
  const consumer = await jetstream(nc).consumers.get(stream, 'worker');
  const messages = await consumer.consume();
  stdinEnds.then(() => messages.close());
  print('subscribed');
  for await (const m of messages) {
    // The line says that the server knows of the ack.
    if (!(await m.ackAck())) throw new Error(`message ${m.seq} could not be acked`);
    report(m);
  }
  const { num_pending, num_ack_pending, num_redelivered } = await consumer.info();
  print(`done ${JSON.stringify({ num_pending, num_ack_pending, num_redelivered })}`);
} else {
  const [subject] = args;
  const messages = nc.subscribe(subject);
  await nc.flush();
  stdinEnds.then(() => messages.drain());
  print('subscribed');
  for await (const m of messages) report(m);
  print('done');
}
await nc.close();
