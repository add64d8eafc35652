// Answers, for each line of a body and a header (both base64), what the
// provider's documented receiver makes of them: the payload that it prints, the
// header that a sender would put over it, and whether it accepts the header that
// came; or "invalid".
import { createHmac, timingSafeEqual } from 'node:crypto';
import { createInterface } from 'node:readline';
import { StringDecoder } from 'node:string_decoder';

const [secret, now] = process.argv.slice(2);
const sign = (t, payload) => createHmac('sha256', secret).update(`${t}.${payload}`).digest('hex');

// As express.json() does, which decodes with this decoder and drops one mark.
function parse(body) {
  const decoder = new StringDecoder('utf8');
  const text = decoder.write(body) + decoder.end();
  return JSON.parse(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
}

function accepts(header, payload) {
  const match = /t=(\d+),v1=(.+)/.exec(header);
  if (!match) return false;
  const got = Buffer.from(match[2]);
  const want = Buffer.from(sign(match[1], payload));
  return got.length === want.length && timingSafeEqual(got, want);
}

const answers = [];
for await (const line of createInterface({ input: process.stdin })) {
  const [body, header] = line.split(' ').map((field) => Buffer.from(field, 'base64'));
  let payload;
  try {
    payload = JSON.stringify(parse(body));
  } catch {
    answers.push('invalid');
    continue;
  }
  const printed = Buffer.from(payload, 'utf8').toString('base64');
  answers.push(`${printed} t=${now},v1=${sign(now, payload)} ${accepts(header.toString(), payload)}`);
}
process.stdout.write(answers.join('\n') + '\n');
