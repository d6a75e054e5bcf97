// What a user of openapi-fetch with the types of openapi-typescript does, from the registration to
// the trash.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import createClient from "openapi-fetch";

import type { paths } from "./schema.js";

const baseUrl = process.env["TASKFLOW_URL"];
assert(baseUrl !== undefined);
const password = "correct horse battery staple";
const name = `fetch-${randomUUID().slice(0, 12)}`;

/** What an answer holds, or an end of the story with the error in words. */
function held<Data>(answer: { data?: Data | undefined; error?: unknown }): Data {
  assert(answer.data !== undefined, JSON.stringify(answer.error));
  return answer.data;
}

function as(credential: string) {
  const headers = { Authorization: `Bearer ${credential}` };
  return createClient<paths>({ baseUrl: baseUrl ?? "", headers });
}

const anonymous = createClient<paths>({ baseUrl });
const registration = { username: name, email: `${name}@example.com`, password };
const user = held(await anonymous.POST("/api/v1/users", { body: registration }));
assert.equal(user.data.username, name);
const taken = await anonymous.POST("/api/v1/users", { body: registration });
assert.equal(taken.response.status, 409);
assert.equal(taken.error?.code, "username_taken");

const token = held(
  await anonymous.POST("/api/v1/auth/token", {
    headers: { "Content-Type": "application/x-www-form-urlencoded" },
    body: { grant_type: "password", username: name, password },
  }),
);
const key = held(
  await as(token.access_token).POST("/api/v1/api-keys", {
    body: { name: "story", scopes: ["tasks:read", "tasks:write"] },
  }),
);
const client = as(key.data.key);

const creation = {
  params: { header: { "Idempotency-Key": randomUUID() } },
  body: { title: "Water the plants", priority: "high" as const, tags: ["garden"] },
};
const first = await client.POST("/api/v1/tasks", creation);
const task = held(first).data;
const again = await client.POST("/api/v1/tasks", creation);
assert.equal(held(again).data.id, task.id);
assert.equal(again.response.headers.get("Idempotent-Replayed"), "true");
const etag = first.response.headers.get("ETag");
assert(etag !== null);

for (let number = 0; number < 4; number++) {
  held(await client.POST("/api/v1/tasks", { body: { title: `Task ${number}` } }));
}
const titles: string[] = [];
let page = held(await client.GET("/api/v1/tasks", { params: { query: { per_page: 2 } } })).data;
for (;;) {
  titles.push(...page.tasks.map((it) => it.title));
  const cursor = page.next_cursor;
  if (cursor === null) break;
  const query = { per_page: 2, cursor };
  page = held(await client.GET("/api/v1/tasks", { params: { query } })).data;
}
assert.deepEqual(titles, ["Task 3", "Task 2", "Task 1", "Task 0", "Water the plants"]);

const path = { task_id: task.id };
const params = { path, header: { "If-Match": etag } };
const done = held(
  await client.PATCH("/api/v1/tasks/{task_id}", { params, body: { status: "completed" } }),
);
assert.equal(done.data.version, 2);
assert(done.data.completed_at !== null);
const late = await client.PATCH("/api/v1/tasks/{task_id}", { params, body: { title: "Too late" } });
assert.equal(late.response.status, 412);
assert.equal(late.error?.code, "version_conflict");

const blank = await client.POST("/api/v1/tasks", { body: { title: "" } });
assert.equal(blank.response.status, 400);
assert.deepEqual(
  blank.error?.errors?.map((it) => [it.field, it.code]),
  [["body.title", "too_short"]],
);

const batch = held(
  await client.POST("/api/v1/tasks/batch", {
    body: {
      operations: [
        { op: "create", task: { title: "From a batch" } },
        { op: "update", id: task.id, version: 2, changes: { title: "Watered" } },
        { op: "delete", id: task.id },
      ],
    },
  }),
);
assert.deepEqual(
  batch.data.results.map((it) => it.status),
  [201, 200, 200],
);

const trash = held(await client.GET("/api/v1/tasks/trash"));
assert.deepEqual(
  trash.data.tasks.map((it) => it.title),
  ["Watered"],
);
const gone = await client.GET("/api/v1/tasks/{task_id}", { params: { path } });
assert.equal(gone.response.status, 404);
const restored = held(
  await client.POST("/api/v1/tasks/{task_id}/restore", { params: { path } }),
);
assert.equal(restored.data.title, "Watered");
held(
  await client.DELETE("/api/v1/tasks/{task_id}", { params: { path, query: { permanent: true } } }),
);
assert.deepEqual(held(await client.GET("/api/v1/tasks/trash")).data.tasks, []);

const external = { path: { external_id: "crm/7" } };
const wanted = { params: external, body: { title: "Call Ana" } };
const made = await client.PUT("/api/v1/tasks/external/{external_id}", wanted);
assert.equal(made.response.status, 201);
const kept = await client.PUT("/api/v1/tasks/external/{external_id}", wanted);
assert.equal(kept.response.status, 200);
assert.deepEqual(held(kept).data, held(made).data);
const query = { external_id: "crm/7" };
const exported = held(await client.GET("/api/v1/tasks/export", { params: { query } }));
assert(Array.isArray(exported));
assert.deepEqual(
  exported.map((it) => it.title),
  ["Call Ana"],
);
console.log("The story ends well.");
