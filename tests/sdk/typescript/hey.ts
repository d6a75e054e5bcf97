// What a user of the client that hey-api generates does, from the registration to the trash.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import {
  createApiKey,
  createTask,
  createToken,
  createUser,
  deleteTask,
  exportTasks,
  listTasks,
  listTrash,
  putTask,
  readTask,
  restoreTask,
  runBatch,
  updateTask,
} from "./client-hey/index.js";
import { createClient } from "./client-hey/client/index.js";

const baseUrl = process.env["TASKFLOW_URL"];
assert(baseUrl !== undefined);
const password = "correct horse battery staple";
const name = `hey-${randomUUID().slice(0, 12)}`;

const anonymous = createClient({ baseUrl });
const registration = { username: name, email: `${name}@example.com`, password };
const user = await createUser({ client: anonymous, body: registration, throwOnError: true });
assert.equal(user.data.data.username, name);
const taken = await createUser({ client: anonymous, body: registration });
assert.equal(taken.response?.status, 409);
assert.equal(taken.error?.code, "username_taken");

const token = await createToken({
  client: anonymous,
  body: { grant_type: "password", username: name, password },
  throwOnError: true,
});
const person = createClient({ baseUrl, auth: token.data.access_token });
const key = await createApiKey({
  client: person,
  body: { name: "story", scopes: ["tasks:read", "tasks:write"] },
  throwOnError: true,
});
const client = createClient({ baseUrl, auth: key.data.data.key });

const headers = { "Idempotency-Key": randomUUID() };
const body = { title: "Water the plants", priority: "high", tags: ["garden"] } as const;
const first = await createTask({
  client,
  headers,
  body: { ...body, tags: [...body.tags] },
  throwOnError: true,
});
const task = first.data.data;
const again = await createTask({
  client,
  headers,
  body: { ...body, tags: [...body.tags] },
  throwOnError: true,
});
assert.equal(again.data.data.id, task.id);
assert.equal(again.response.headers.get("Idempotent-Replayed"), "true");
const etag = first.response.headers.get("ETag");
assert(etag !== null);

for (let number = 0; number < 4; number++) {
  await createTask({ client, body: { title: `Task ${number}` }, throwOnError: true });
}
const titles: string[] = [];
let page = (await listTasks({ client, query: { per_page: 2 }, throwOnError: true })).data.data;
for (;;) {
  titles.push(...page.tasks.map((it) => it.title));
  const cursor = page.next_cursor;
  if (cursor === null) break;
  page = (await listTasks({ client, query: { per_page: 2, cursor }, throwOnError: true })).data.data;
}
assert.deepEqual(titles, ["Task 3", "Task 2", "Task 1", "Task 0", "Water the plants"]);

const path = { task_id: task.id };
const ifMatch = { "If-Match": etag };
const done = await updateTask({
  client,
  path,
  headers: ifMatch,
  body: { status: "completed" },
  throwOnError: true,
});
assert.equal(done.data.data.version, 2);
assert(done.data.data.completed_at !== null);
const late = await updateTask({ client, path, headers: ifMatch, body: { title: "Too late" } });
assert.equal(late.response?.status, 412);
assert.equal(late.error?.code, "version_conflict");

const blank = await createTask({ client, body: { title: "" } });
assert.equal(blank.response?.status, 400);
assert.deepEqual(
  blank.error?.errors?.map((it) => [it.field, it.code]),
  [["body.title", "too_short"]],
);

const batch = await runBatch({
  client,
  body: {
    operations: [
      { op: "create", task: { title: "From a batch" } },
      { op: "update", id: task.id, version: 2, changes: { title: "Watered" } },
      { op: "delete", id: task.id },
    ],
  },
  throwOnError: true,
});
assert.deepEqual(
  batch.data.data.results.map((it) => it.status),
  [201, 200, 200],
);

const trash = await listTrash({ client, throwOnError: true });
assert.deepEqual(
  trash.data.data.tasks.map((it) => it.title),
  ["Watered"],
);
assert.equal((await readTask({ client, path })).response?.status, 404);
assert.equal((await restoreTask({ client, path, throwOnError: true })).data.data.title, "Watered");
await deleteTask({ client, path, query: { permanent: true }, throwOnError: true });
assert.deepEqual((await listTrash({ client, throwOnError: true })).data.data.tasks, []);

const external = { path: { external_id: "crm/7" }, body: { title: "Call Ana" } };
const made = await putTask({ client, ...external, throwOnError: true });
assert.equal(made.response.status, 201);
const kept = await putTask({ client, ...external, throwOnError: true });
assert.equal(kept.response.status, 200);
assert.deepEqual(kept.data.data, made.data.data);
const query = { external_id: "crm/7" };
const exported = await exportTasks({ client, query, throwOnError: true });
assert.deepEqual(
  exported.data.map((it) => it.title),
  ["Call Ana"],
);
console.log("The story ends well.");
