// The public preview storm for k6, which measures as the contest does. It needs nothing but k6 itself:
//
//   k6 run bench/storm.js
//   k6 run -e GALO=http://localhost:9999 -e SCALE=0.5 -e CLIENTS=300 bench/storm.js
//
// Galo has to run with ALLOW_PURGE=true (`ALLOW_PURGE=true docker compose up -d`), the processors' admin sides have to be
// within reach. SCALE squeezes the storm's length, not its number of clients; P99 sets the threshold in milliseconds.
// UNTIMED=1 is for a machine whose clock cannot be trusted: a summary that disagreed and is right at a later look is counted apart.
// Clients grow evenly from 1 to 550; each posts 19.90 and then waits a second.

import http from 'k6/http';
import { check, sleep } from 'k6';
import { Counter } from 'k6/metrics';

const GALO = __ENV.GALO || 'http://localhost:9999';
const ADMINS = {
  default: __ENV.DEFAULT_ADMIN || 'http://localhost:8001',
  fallback: __ENV.FALLBACK_ADMIN || 'http://localhost:8002',
};
const TOKEN = __ENV.TOKEN || '123';
const SCALE = Number(__ENV.SCALE || 1); // factor on the 60 seconds
const CLIENTS = Number(__ENV.CLIENTS || 550);
const P99 = Number(__ENV.P99 || 100); // milliseconds; generous: it is the verdict that counts, not this machine
const UNTIMED = Boolean(__ENV.UNTIMED);
const UNTIMED_LOOKS = 30; // a second each
const DRAIN = Number(__ENV.DRAIN || 60); // seconds for the last payments after the storm
const QUIET = 6; // seconds without a payment that mean there are none left: longer than any delay

const LENGTH = 60 * SCALE; // seconds
const AMOUNT = 19.9;
const CHECK_EVERY = 10; // seconds, as the window [now - 15 s, now - 1.5 s] the contest's own
const WINDOW_BACK = 15000; // milliseconds
const WINDOW_GRACE = 1500;

// from second, then delay in milliseconds and failing of each processor
const STAGES = [
  { from: 0, default: [0, false], fallback: [0, false] },
  { from: 10, default: [100, false], fallback: [0, false] },
  { from: 20, default: [100, true], fallback: [0, false] },
  { from: 30, default: [2000, true], fallback: [1000, true] },
  { from: 40, default: [20, false], fallback: [20, false] },
  { from: 50, default: [0, false], fallback: [5000, false] },
];

const accepted = new Counter('payments_accepted');
const refused = new Counter('payments_not_accepted');
const agreed = new Counter('summaries_agreed');
const disagreed = new Counter('summaries_disagreed');
const passing = new Counter('summaries_passing'); // untimed: over at a later look
const unavailable = new Counter('summaries_unavailable'); // 503: galo says that it has no answer now
const waiting = new Counter('payments_waiting'); // one up for each 202, and in the end down by all that were paid

export const options = {
  setupTimeout: '60s',
  teardownTimeout: `${DRAIN + 60}s`,
  summaryTrendStats: ['min', 'med', 'avg', 'p(90)', 'p(99)', 'p(99.9)', 'max'],
  scenarios: {
    payments: {
      executor: 'ramping-vus',
      exec: 'pay',
      startVUs: 1,
      stages: [{ duration: `${LENGTH}s`, target: CLIENTS }],
      gracefulRampDown: '0s',
      gracefulStop: '5s',
    },
    stages: {
      executor: 'per-vu-iterations',
      exec: 'turnStages',
      vus: 1,
      iterations: 1,
      maxDuration: `${LENGTH + 30}s`,
    },
    checks: {
      executor: 'constant-arrival-rate',
      exec: 'compare',
      startTime: `${CHECK_EVERY}s`,
      duration: `${Math.max(LENGTH - CHECK_EVERY, 1)}s`,
      rate: 1,
      timeUnit: `${CHECK_EVERY}s`,
      preAllocatedVUs: 2,
    },
  },
  thresholds: {
    'http_req_failed{scenario:payments}': ['rate<0.01'],
    'http_req_duration{scenario:payments}': [`p(99)<${P99}`],
    payments_accepted: ['count>0'],
    summaries_disagreed: ['count==0'],
    payments_waiting: ['count<=0'], // below: paid, although a client gave up before its answer came
  },
};

// A counter that never counted is not there for its threshold: each is begun with nothing.
function beginCounters() {
  disagreed.add(0);
  passing.add(0);
  unavailable.add(0);
  refused.add(0);
}

export function setup() {
  beginCounters();
  enter(STAGES[0]);
  for (const base of Object.values(ADMINS)) {
    must(http.post(`${base}/admin/purge-payments`, null, adminHeaders()), 'purge of a processor');
  }
  must(http.post(`${GALO}/purge-payments`), 'purge of galo');
  return { began: Date.now() };
}

const posted = { headers: { 'Content-Type': 'application/json' }, tags: { name: 'POST /payments' } };

export function pay() {
  const body = JSON.stringify({ correlationId: crypto.randomUUID(), amount: AMOUNT });
  const answer = http.post(`${GALO}/payments`, body, posted);
  if (check(answer, { 'payment accepted': (r) => r.status === 202 })) {
    accepted.add(1);
    waiting.add(1);
  } else {
    refused.add(1);
  }
  sleep(1);
}

export function turnStages() {
  // The scenario begins when the payments begin, a moment after setup.
  const began = Date.now();
  for (const stage of STAGES) {
    sleep(Math.max(0, (began + stage.from * SCALE * 1000 - Date.now()) / 1000));
    enter(stage);
  }
}

export function compare() {
  const now = Date.now();
  const ask = window(now - WINDOW_BACK, now - WINDOW_GRACE);
  const ours = galoSummary(ask);
  const theirs = processorSummaries(ask);
  if (ours === null) {
    unavailable.add(1);
    return;
  }
  for (let look = 0; UNTIMED && look < UNTIMED_LOOKS && !same(ours, theirs); look++) {
    sleep(1);
    const later = galoSummary(ask);
    if (later !== null && same(later, processorSummaries(ask))) {
      passing.add(1);
      return;
    }
  }
  judge(ours, theirs, `window ${ask}`);
}

// teardown waits until nothing has moved for longer than the longest delay, then compares the whole run.
export function teardown(run) {
  const until = Date.now() + DRAIN * 1000;
  let ask, ours, theirs;
  let last = -1;
  let movedAt = Date.now();
  do {
    sleep(WINDOW_GRACE / 1000);
    ask = window(run.began - WINDOW_BACK, Date.now());
    theirs = processorSummaries(ask);
    ours = galoSummary(ask);
    const paid = theirs.default.requests + theirs.fallback.requests;
    if (paid !== last) {
      last = paid;
      movedAt = Date.now();
    }
  } while (Date.now() < until && (Date.now() < movedAt + QUIET * 1000 || ours === null));
  console.log(`paid: ${theirs.default.requests} at default, ${theirs.fallback.requests} at fallback`);
  waiting.add(-last);
  if (ours === null) {
    console.error('galo had no summary of the whole run');
    disagreed.add(1);
    return;
  }
  judge(ours, theirs, 'whole run');
}

function judge(ours, theirs, what) {
  if (same(ours, theirs)) {
    agreed.add(1);
    return;
  }
  disagreed.add(1);
  console.error(`summary disagrees, ${what}: galo ${JSON.stringify(ours)}, processors ${JSON.stringify(theirs)}`);
}

function same(a, b) {
  return ['default', 'fallback'].every((p) => a[p].requests === b[p].requests && a[p].cents === b[p].cents);
}

function galoSummary(ask) {
  const answer = http.get(`${GALO}/payments-summary?${ask}`, { tags: { name: 'GET /payments-summary' } });
  if (answer.status !== 200) {
    return null;
  }
  return { default: totals(answer.json('default')), fallback: totals(answer.json('fallback')) };
}

function processorSummaries(ask) {
  const all = {};
  for (const [name, base] of Object.entries(ADMINS)) {
    const answer = http.get(`${base}/admin/payments-summary?${ask}`, adminHeaders());
    must(answer, `summary of ${name}`);
    all[name] = totals(answer.json());
  }
  return all;
}

function totals(t) {
  return { requests: t.totalRequests, cents: Math.round(t.totalAmount * 100) };
}

function window(from, to) {
  return `from=${new Date(from).toISOString()}&to=${new Date(to).toISOString()}`;
}

function enter(stage) {
  for (const [name, base] of Object.entries(ADMINS)) {
    const [delay, failure] = stage[name];
    must(http.put(`${base}/admin/configurations/delay`, JSON.stringify({ delay }), adminHeaders()), `delay of ${name}`);
    must(http.put(`${base}/admin/configurations/failure`, JSON.stringify({ failure }), adminHeaders()), `failure of ${name}`);
  }
}

function adminHeaders() {
  return { headers: { 'X-Rinha-Token': TOKEN, 'Content-Type': 'application/json' }, tags: { name: 'admin' } };
}

function must(answer, what) {
  if (answer.status < 200 || answer.status > 299) {
    throw new Error(`${what} answered ${answer.status}`);
  }
}
