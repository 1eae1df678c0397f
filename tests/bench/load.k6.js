// The bench's mixes against any server: `k6 run tests/bench/load.k6.js`.
//
// Environment:
//   TASKMAN_URL        the server (http://127.0.0.1:8080)
//   TASKMAN_EMAILS     who calls, with commas between; each signs in once, and all have the same password
//   TASKMAN_PASSWORD   that password
//   TASKMAN_MIX        mixed (90 % reads, the default), write, list, search or login
//   TASKMAN_CALLERS    how many at once (64)
//   TASKMAN_DURATION   for how long (60s)
import http from "k6/http";
import { check, fail } from "k6";
import { Counter, Trend } from "k6/metrics";

const URL = (__ENV.TASKMAN_URL || "http://127.0.0.1:8080").replace(/\/$/, "");
const EMAILS = (__ENV.TASKMAN_EMAILS || "").split(",").filter(Boolean);
const PASSWORD = __ENV.TASKMAN_PASSWORD || "";
const MIXES = {
  mixed: { get: 70, list: 15, search: 5, create: 10 },
  write: { create: 50, update: 20, transition: 15, assign: 15 },
  list: { list: 100 },
  search: { search: 100 },
  login: { login: 100 },
};
const MIX = MIXES[__ENV.TASKMAN_MIX || "mixed"];
const RUN = `${Date.now()}`;
const PRIORITIES = ["low", "medium", "high", "urgent"];
const durations = {};
for (const kind of ["get", "list", "search", "create", "update", "transition", "assign", "login"]) {
  durations[kind] = new Trend(`taskman_${kind}`, true);
}
const refused = new Counter("taskman_refused");

export const options = {
  vus: Number(__ENV.TASKMAN_CALLERS || 64),
  duration: __ENV.TASKMAN_DURATION || "60s",
  summaryTrendStats: ["count", "avg", "p(50)", "p(95)", "p(99)", "p(99.9)", "max"],
  thresholds: { taskman_refused: ["count==0"] },
};

function pick(some) {
  return some[Math.floor(Math.random() * some.length)];
}

function headers(token, key) {
  const found = { accept: "application/json", "content-type": "application/json" };
  if (token) found.authorization = `Bearer ${token}`;
  if (key) found["idempotency-key"] = key;
  return found;
}

function ask(path, token) {
  const response = http.get(`${URL}${path}`, { headers: headers(token) });
  if (response.status !== 200) fail(`GET ${path}: ${response.status} ${response.body}`);
  return response.json();
}

// Signs everybody in, and looks what there is to ask for.
export function setup() {
  if (!MIX) fail(`TASKMAN_MIX is one of ${Object.keys(MIXES).join(", ")}`);
  if (!EMAILS.length || !PASSWORD) fail("TASKMAN_EMAILS and TASKMAN_PASSWORD say who calls");
  const people = EMAILS.map((email) => {
    const body = JSON.stringify({ email, password: PASSWORD });
    const response = http.post(`${URL}/v1/auth/login`, body, { headers: headers() });
    if (response.status !== 200) fail(`${email} could not sign in: ${response.status} ${response.body}`);
    const token = response.json().access_token;
    const id = ask("/v1/users/me", token).id;
    const projects = (ask("/v1/projects?page_size=1000", token).projects || [])
      .filter((project) => (project.members || []).some((each) => each.user === id && each.role !== "viewer"))
      .map((project) => ({ id: project.id, members: project.members.map((each) => each.user) }));
    const tasks = (ask("/v1/tasks?page_size=1000", token).tasks || []).map((task) => ({
      id: task.id, project: task.project, state: task.state, title: task.title, labels: task.labels || [],
    }));
    if (!tasks.length) fail(`${email} sees no task: make some first`);
    const own = new Set(projects.map((project) => project.id));
    return { email, token, projects, tasks, own: tasks.filter((task) => own.has(task.project)) };
  });
  const writes = Object.keys(MIX).some((kind) => ["create", "update", "transition", "assign"].includes(kind));
  const writers = people.filter((person) => person.projects.length && person.own.length);
  if (writes && !writers.length) fail("none of TASKMAN_EMAILS is an editor of a project with tasks");
  const counts = {};
  for (const task of people[0].tasks) for (const label of task.labels) counts[label] = (counts[label] || 0) + 1;
  const labels = Object.keys(counts).sort((one, other) => counts[other] - counts[one]).slice(0, 5);
  return { people, writers, labels: labels.length ? labels : ["fix"] };
}

const kinds = {
  get(data) {
    const person = pick(data.people);
    return ["GET", `/v1/tasks/${pick(person.tasks).id}`, person];
  },
  list(data) {
    const condition = `"${pick(data.labels)}" in labels && state == "${pick(["todo", "in_progress", "done"])}"`;
    return ["GET", `/v1/tasks?page_size=50&filter=${encodeURIComponent(condition)}`, pick(data.people)];
  },
  search(data) {
    const person = pick(data.people);
    const words = pick(person.tasks).title.match(/[A-Za-z]{3,}/g) || ["task"];
    const query = [pick(words), pick(words)].join(" ");
    return ["GET", `/v1/tasks:search?query=${encodeURIComponent(query)}`, person];
  },
  create(data, unique) {
    const person = pick(data.writers);
    const project = pick(person.projects);
    const like = pick(person.own);
    return ["POST", "/v1/tasks", person, {
      project: project.id, title: `${unique} ${like.title}`.slice(0, 500), labels: like.labels,
      priority: pick(PRIORITIES), assignees: [pick(project.members)],
    }];
  },
  update(data, unique) {
    const person = pick(data.writers);
    const task = pick(person.own);
    return ["PATCH", `/v1/tasks/${task.id}`, person, {
      title: `${unique} ${task.title}`.slice(0, 500), priority: pick(PRIORITIES),
    }];
  },
  // To done and back: these two moves are there from every state.
  transition(data) {
    const person = pick(data.writers);
    const task = pick(person.own);
    task.state = task.state === "done" ? "todo" : "done";
    return ["POST", `/v1/tasks/${task.id}:transition`, person, { state: task.state }];
  },
  assign(data) {
    const person = pick(data.writers);
    const task = pick(person.own);
    const project = person.projects.find((each) => each.id === task.project);
    return ["POST", `/v1/tasks/${task.id}:assign`, person, { assignees: [pick(project.members)] }];
  },
  login() {
    return ["POST", "/v1/auth/login", null, { email: pick(EMAILS), password: PASSWORD }];
  },
};

function kind() {
  let left = Math.random() * Object.values(MIX).reduce((sum, each) => sum + each, 0);
  return Object.keys(MIX).find((name) => (left -= MIX[name]) < 0) || Object.keys(MIX)[0];
}

export default function (data) {
  const name = kind();
  const unique = `${RUN}-${__VU}-${__ITER}`;
  const [verb, path, person, body] = kinds[name](data, unique);
  const response = http.request(verb, `${URL}${path}`, body ? JSON.stringify(body) : null, {
    headers: headers(person && person.token, person && body ? `k6-${unique}` : ""),
    tags: { name },
  });
  durations[name].add(response.timings.duration);
  if (!check(response, { "2xx": (answer) => answer.status >= 200 && answer.status < 300 })) refused.add(1);
}
