// Writes the known-answer vectors with Node's own JSON and HMAC:
//
//	node verify/testdata/generate.mjs
import { createHmac } from 'node:crypto';
import { writeFileSync } from 'node:fs';

const write = (name, value) =>
  writeFileSync(new URL(name, import.meta.url), JSON.stringify(value, null, 1) + '\n');

// A body that is not valid text is given as a Buffer.
const field = (body) => (Buffer.isBuffer(body) ? { body64: body.toString('base64') } : { body });
const print = (body) => {
  let text = Buffer.isBuffer(body) ? body.toString('utf8') : Buffer.from(body).toString('utf8');
  if (text.charCodeAt(0) === 0xfeff) text = text.slice(1);
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return null;
  }
};

const generation = {
  id: '6533643b-acbe-4c40-967e-d9ba9baac39e',
  createdAt: '2024-11-04T12:00:00.000Z',
  status: 'COMPLETED',
  model: 'lipsync-2',
  input: [
    { type: 'video', url: 'https://assets.example/take 1.mp4', segments_secs: [[0.5, 4.25]] },
    { type: 'audio', url: 'https://assets.example/voice.wav', assetId: null },
  ],
  options: { sync_mode: 'cut_off', temperature: 0.5, output_format: 'mp4' },
  outputUrl: 'https://assets.example/out.mp4?sig=a%2Fb&x=1',
  segmentOutputUrl: null,
  outputDuration: 12.48,
  error: null,
  error_code: null,
  webhookUrl: 'https://hooks.example/webhook',
};
const wrapped = { result: { id: 'job-1', status: 'FAILED' }, error: 'no face in the video' };
const unicode = { id: 'j', status: 'COMPLETED', name: 'Zoë 你好 😀 \u2028 \ud800', '2': 'b', '1': 'a' };

const secret = 'whsec_known_answer';
const events = [];
const event = (name, body, payload, { t = '1700000000', verdict = 'ok', by = secret } = {}) => {
  const v1 = createHmac('sha256', by).update(`${t}.`).update(payload).digest('hex');
  events.push({ name, secret, t, ...field(body), header: `t=${t},v1=${v1}`, payload, verdict });
};
for (const [name, value] of Object.entries({ generation, wrapped, unicode })) {
  const compact = JSON.stringify(value);
  event(`${name}, compact`, compact, compact);
  event(`${name}, indented, signed re-serialized`, JSON.stringify(value, null, 2), compact);
  event(`${name}, indented, signed raw`, JSON.stringify(value, null, 2), JSON.stringify(value, null, 2));
}
event('milliseconds', '{"id":"j"}', '{"id":"j"}', { t: '1700000000123' });
event('leading zero', '{"id":"j"}', '{"id":"j"}', { t: '01700000000' });
event('keys in another order', '{"b":1,"2":0,"a":1.0,"1":0,"b":2}', print('{"b":1,"2":0,"a":1.0,"1":0,"b":2}'));
event('byte order mark', '\ufeff{"id":"j"}', '{"id":"j"}');
event('invalid UTF-8', Buffer.from('{"id":"\xff"}', 'latin1'), '{"id":"\ufffd"}');
event('not JSON, signed raw', 'id=j', 'id=j');
event('empty body, signed raw', '', '');
event('another secret', '{"id":"j"}', '{"id":"j"}', { by: 'whsec_other', verdict: 'mismatch' });
event('another payload', '{"id":"j"}', '{"id":"k"}', { verdict: 'mismatch' });
event('not JSON, signed otherwise', 'id=j', '{"id":"j"}', { verdict: 'mismatch' });
write('verify.json', events);

const texts = [
  // Numbers.
  ...['0', '-0', '-0.0', '0.0', '1.0', '-1', '10', '1e2', '1E+2', '1e-2', '100', '1e20', '1e21', '-1e21', '123456789012345678901', '999999999999999999999',
    '1e-6', '1e-7', '0.000001', '0.0000001', '-1e-7', '1.5e-10', '1e100', '1E400', '-1e400', '5e-324', '2e-324', '2.5e-324', '2.2250738585072011e-308', '2.2250738585072014e-308',
    '1.7976931348623157e308', '1.7976931348623159e308', '9007199254740991', '9007199254740992', '9007199254740993', '9007199254740993.0000000000000000000001', '123456789012345', '1234567890123456', '12345678901234567890',
    '0.1', '0.30000000000000004', '4.35', '1.005', '100000000000000000000', '0e999999999', '0.5e-323', '3.0e-310', '1e00001', '1.0000000000000002220446049250313080847263336181640625'].flatMap((n) => [n, `[${n}]`]),
  '0.' + '0'.repeat(700) + '1e702',
  '9007199254740993' + '0'.repeat(700) + 'e-700',
  '9007199254740993' + '0'.repeat(700) + '1e-701',
  // Strings.
  '""', '"\\u0041\\/\\"\\\\"', '"\\b\\f\\n\\r\\t"', '"\\u0000\\u001F\\u007f\u007f"', '"\\u2028\u2029"', '"\\ud83d\\ude00"', '"😀"', '"\\ude00\\ud83d"', '"\\ud83d"', '"\\uD83Dx"', '"\\ud83d\\n"',
  '"\\ud83d\\ud83d\\ude00"', '"\\udfff"', '"\\uFEFF\ufeff"', '"\\u00e9é"', '"\\uffff"', '"<>&\'"',
  '"\\uABCDEF\\uabcdef\\uA0aF"', '"\\ud83dxude00"', '"\\ud83d', '"\\ud83d\\', '"\\ud83d\\n', '"\\u0041', '"\\u0020\\u001f\\u0021"',
  // Objects.
  '{}', '[]', ' { } ', '[ ]', '{"a":1,"b":2}', '{"b":1,"a":2}', '{"2":0,"1":0}', '{"b":0,"1":0,"a":0,"0":0}', '{"10":0,"9":0}', '{"01":0,"1":0}', '{"-1":0,"1":0}', '{"1.0":0,"1":0}',
  '{"4294967295":0,"4294967294":0}', '{"4294967296":0,"4294967293":0}', '{"9999999999":0,"1":0}', '{"":0,"0":0}', '{"a":1,"b":2,"a":3}', '{"a":{"x":1},"b":2,"a":[1e21]}', '{"1":1,"a":2,"1":3}',
  '{"\\u0061":1,"a":2}', '{"\\ud83d\\ude00":1,"😀":2}', '{"\\ud83d":1,"\\uD83D":2,"\\ude00":3}', '{"\\u0031":1,"0":2}', '{"__proto__":1,"a":2,"__proto__":3}', '{"__proto__":{"x":1}}',
  '{"constructor":1,"toString":2,"hasOwnProperty":3}', '{"a":{"2":{"4":0,"3":0},"1":0},"a":{"2":{"4":1,"3":1},"1":1}}', '{"x":{"b":1,"0":{"z":1,"1":2}},"0":[{"b":1,"0":2}]}',
  '{' + Array.from({ length: 50 }, (_, i) => `"k${i % 40}":${i}`).join() + '}', '{' + Array.from({ length: 50 }, (_, i) => `"${50 - i}":${i}`).join() + '}', '{' + Array.from({ length: 50 }, (_, i) => `"k${i}":${i}`).join(', ') + '}',
  // White space and the ends.
  ' \t\n\r[ 1 , 2 ]\n', '\ufeff[]', '\ufeff\ufeff[]', '\u00a0[]', '[]\u00a0', '\v[]', '\f[]', '\u2028[]', '[]\u0000', '', ' ', '\ufeff',
  // What is not JSON.
  '{', '[', '}', ']', '[1,]', '[,1]', '[1 2]', '{"a":1,}', '{,}', '{"a"}', '{"a":}', '{a:1}', "{'a':1}", '{"a":1]', '[1}', '[]]', '{}{}', '1 2', '[1]]', '{"a" 1}', '{"a"::1}', '{1:1}', '"a', '"', '"\\"', '"\\x"', '"\\u12"', '"\\u12g4"', '"\\u12`4"', '"\\u12W4"', '"\\u12:4"', '"\\u12/4"', '"\\u{41}"', '"\\U0041"', '"\n"', '"\t"', '"\u0000"', '"\u001f"',
  '01', '-01', '00', '+1', '.5', '1.', '1.e1', '1e', '1e+', '-', '--1', '- 1', '0x10', '1_000', '1n', '1e1.5', 'NaN', 'Infinity', '-Infinity', 'undefined', 'tru', 'True', 'nul', 'nulll', 'falsee', 'true false', '// x\n1', '/* */1', '#1', '[1,/**/2]',
  // Invalid UTF-8, by maximal subparts.
  ...['22ff22', '22c322', '22e2822222', '22e28022', '22f09f9822', '22eda08022', '22c08022', '22f490808022', '22e08022', '22f8888080808022', '22c3a9c322', '22f0808022', '22e282e28222', '22f09f98f09f988022', '22808022', '22', 'ff', '5b31ff5d', 'efbb5b5d', '7bff223a317d', '22ed9fbfee808022', '22c3', '22e282', '22f09f98', '22e2bf22', '22e0a022', '22ed9f22', '22f48f22', '22f0bf22', '7b22ff223a312c22fe223a327d']
    .map((hex) => Buffer.from(hex, 'hex')),
];
write('stringify.json', texts.map((body) => ({ ...field(body), printed: print(body) })));
