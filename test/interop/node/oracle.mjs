// Answers, for each line of base64 {body, header} documents, what the provider's
// documented receiver makes of them: the payload it prints, the header that a
// sender would put over it, and whether the header it came with is right.
import { createHmac } from 'node:crypto';
import { createInterface } from 'node:readline';

const secret = process.argv[2];
const t = process.argv[3];
const mac = (payload) => createHmac('sha256', secret).update(`${t}.${payload}`).digest('hex');

const answers = [];
for await (const line of createInterface({ input: process.stdin })) {
  const [body64, v1] = line.split(' ');
  let text = Buffer.from(body64, 'base64').toString('utf8');
  if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
  let payload;
  try {
    payload = JSON.stringify(JSON.parse(text));
  } catch {
    answers.push('invalid');
    continue;
  }
  const sum = mac(payload);
  answers.push(`${Buffer.from(payload, 'utf8').toString('base64')} ${sum} ${sum === v1}`);
}
process.stdout.write(answers.join('\n') + '\n');
