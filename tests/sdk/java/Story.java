import example.taskflow.client.ApiClient;
import example.taskflow.client.ApiException;
import example.taskflow.client.api.AccountsApi;
import example.taskflow.client.api.TasksApi;
import example.taskflow.client.model.ApiKeyCreate;
import example.taskflow.client.model.CreateOperation;
import example.taskflow.client.model.DeleteOperation;
import example.taskflow.client.model.ErrorResponse;
import example.taskflow.client.model.Scope;
import example.taskflow.client.model.TaskBatch;
import example.taskflow.client.model.TaskBatchOperationsInner;
import example.taskflow.client.model.TaskCreate;
import example.taskflow.client.model.TaskPriority;
import example.taskflow.client.model.TaskRead;
import example.taskflow.client.model.TaskReplace;
import example.taskflow.client.model.TaskStatus;
import example.taskflow.client.model.TaskUpdate;
import example.taskflow.client.model.TrashedTaskRead;
import example.taskflow.client.model.UpdateOperation;
import example.taskflow.client.model.UserCreate;
import java.util.ArrayList;
import java.util.List;

/** What a user of the generated client does, from the registration to the trash. */
public final class Story {
  private static final String PASSWORD = "correct horse battery staple";

  private Story() {}

  private interface Call {
    Object run() throws ApiException;
  }

  private static ApiClient client(String credential) {
    ApiClient client = new ApiClient();
    client.updateBaseUri(System.getenv("TASKFLOW_URL"));
    if (credential != null) {
      client.setRequestInterceptor(it -> it.header("Authorization", "Bearer " + credential));
    }
    return client;
  }

  /** The typed error of a call that must fail with this status. */
  private static ErrorResponse refused(int status, Call call) throws Exception {
    try {
      throw new AssertionError("not refused: " + call.run());
    } catch (ApiException refusal) {
      same(status, refusal.getCode());
      return ApiClient.createDefaultObjectMapper()
          .readValue(refusal.getResponseBody(), ErrorResponse.class);
    }
  }

  private static void same(Object wanted, Object seen) {
    if (!wanted.equals(seen)) {
      throw new AssertionError("not " + wanted + ": " + seen);
    }
  }

  /** Register, log in, and go on with an API key. */
  private static TasksApi logIn(String name) throws Exception {
    AccountsApi anonymous = new AccountsApi(client(null));
    UserCreate registration =
        new UserCreate().username(name).email(name + "@example.com").password(PASSWORD);
    same(name, anonymous.createUser(registration).getData().getUsername());
    same("username_taken", refused(409, () -> anonymous.createUser(registration)).getCode());

    var token = anonymous.createToken("password", name, PASSWORD, null);
    AccountsApi person = new AccountsApi(client(token.getAccessToken()));
    ApiKeyCreate asked =
        new ApiKeyCreate().name("story").scopes(List.of(Scope.TASKS_READ, Scope.TASKS_WRITE));
    return new TasksApi(client(person.createApiKey(asked).getData().getKey()));
  }

  private static List<String> titlesByCursor(TasksApi tasks) throws ApiException {
    List<String> titles = new ArrayList<>();
    String cursor = null;
    do {
      var request = TasksApi.APIListTasksRequest.newBuilder().perPage(2).cursor(cursor).build();
      var page = tasks.listTasks(request).getData();
      page.getTasks().forEach(task -> titles.add(task.getTitle()));
      cursor = page.getNextCursor();
    } while (cursor != null);
    return titles;
  }

  private static List<String> titlesInTrash(TasksApi tasks) throws ApiException {
    var request = TasksApi.APIListTrashRequest.newBuilder().build();
    return tasks.listTrash(request).getData().getTasks().stream()
        .map(TrashedTaskRead::getTitle)
        .toList();
  }

  public static void main(String[] arguments) throws Exception {
    String name = arguments[0];
    TasksApi tasks = logIn(name);

    TaskCreate body = new TaskCreate().title("Water the plants").priority(TaskPriority.HIGH);
    var first = tasks.createTaskWithHttpInfo(body, name);
    long id = first.getData().getData().getId();
    String etag = first.getHeaders().get("etag").get(0);
    same(id, tasks.createTask(body, name).getData().getId());

    for (int number = 0; number < 4; number++) {
      tasks.createTask(new TaskCreate().title("Task " + number), null);
    }
    same(
        List.of("Task 3", "Task 2", "Task 1", "Task 0", "Water the plants"), titlesByCursor(tasks));

    var done = tasks.updateTask(id, new TaskUpdate().status(TaskStatus.COMPLETED), etag).getData();
    same(2L, done.getVersion());
    same(false, done.getCompletedAt() == null);
    TaskUpdate late = new TaskUpdate().title("Too late");
    same("version_conflict", refused(412, () -> tasks.updateTask(id, late, etag)).getCode());

    ErrorResponse blank = refused(400, () -> tasks.createTask(new TaskCreate().title(""), null));
    same("body.title", blank.getErrors().get(0).getField());

    TaskBatch batch =
        new TaskBatch()
            .addOperationsItem(
                new TaskBatchOperationsInner(
                    new CreateOperation()
                        .op(CreateOperation.OpEnum.CREATE)
                        .task(new TaskCreate().title("From a batch"))))
            .addOperationsItem(
                new TaskBatchOperationsInner(
                    new UpdateOperation()
                        .op(UpdateOperation.OpEnum.UPDATE)
                        .id(id)
                        .version(2L)
                        .changes(new TaskUpdate().title("Watered"))))
            .addOperationsItem(
                new TaskBatchOperationsInner(
                    new DeleteOperation().op(DeleteOperation.OpEnum.DELETE).id(id)));
    List<Integer> statuses = new ArrayList<>();
    for (var result : tasks.runBatch(batch, null).getData().getResults()) {
      statuses.add(result.getStatus());
    }
    same(List.of(201, 200, 200), statuses);

    same(List.of("Watered"), titlesInTrash(tasks));
    refused(404, () -> tasks.readTask(id, null));
    same("Watered", tasks.restoreTask(id, null).getData().getTitle());
    tasks.deleteTask(id, true, null);
    same(List.of(), titlesInTrash(tasks));

    TaskReplace wanted = new TaskReplace().title("Call Ana");
    var made = tasks.putTaskWithHttpInfo("crm/7", wanted, null, null);
    same(201, made.getStatusCode());
    var kept = tasks.putTaskWithHttpInfo("crm/7", wanted, null, null);
    same(200, kept.getStatusCode());
    same(made.getData().getData(), kept.getData().getData());
    var exported = TasksApi.APIExportTasksRequest.newBuilder().externalId("crm/7").build();
    same(
        List.of("Call Ana"),
        tasks.exportTasks(exported).stream().map(TaskRead::getTitle).toList());
    System.out.println("The story ends well.");
  }
}
