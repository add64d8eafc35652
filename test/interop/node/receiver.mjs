// The receiver as the provider documents it, on express. It prints where it
// listens, and ends when its standard input does.
import express from 'express';
import { createHmac, timingSafeEqual } from 'node:crypto';

const secret = process.env.SYNC_WEBHOOK_SECRET;

function authentic(header, body) {
  const match = /t=(\d+),v1=(.+)/.exec(header ?? '');
  if (!match) return false;
  const [, t, v1] = match;
  const expected = Buffer.from(createHmac('sha256', secret).update(`${t}.${JSON.stringify(body)}`).digest('hex'));
  const given = Buffer.from(v1);
  return given.length === expected.length && timingSafeEqual(given, expected);
}

const app = express();
app.use(express.json());
app.post('/webhook', (req, res) => {
  if (!authentic(req.get('Sync-Signature'), req.body)) {
    return res.status(400).json({ message: 'Invalid signature' });
  }
  return res.status(200).json({ message: 'Webhook signature verified' });
});

const server = app.listen(0, '127.0.0.1', (err) => {
  if (err) throw err;
  console.log(`listening ${server.address().address}:${server.address().port}`);
});
process.stdin.resume().on('end', () => {
  server.close();
  server.closeAllConnections();
});
