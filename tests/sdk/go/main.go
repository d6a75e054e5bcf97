// What a user of the generated client does, from the registration to the trash.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"

	taskflow "taskflow.example/sdk/go"
)

const password = "correct horse battery staple"

func client(credential string) *taskflow.APIClient {
	configuration := taskflow.NewConfiguration()
	configuration.Servers = taskflow.ServerConfigurations{{URL: os.Getenv("TASKFLOW_URL")}}
	if credential != "" {
		configuration.AddDefaultHeader("Authorization", "Bearer "+credential)
	}
	return taskflow.NewAPIClient(configuration)
}

// told ends the story at an error, with the words of the service.
func told[T any](value T, _ *http.Response, err error) T {
	if err != nil {
		var refusal *taskflow.GenericOpenAPIError
		if errors.As(err, &refusal) {
			log.Fatalf("%v: %s", err, refusal.Body())
		}
		log.Fatal(err)
	}
	return value
}

// refused is the typed error of a call that must fail with this status.
func refused[T any](status int) func(T, *http.Response, error) taskflow.ErrorResponse {
	return func(_ T, response *http.Response, err error) taskflow.ErrorResponse {
		var refusal *taskflow.GenericOpenAPIError
		if !errors.As(err, &refusal) || response.StatusCode != status {
			log.Fatalf("not a %d: %v", status, err)
		}
		body, ok := refusal.Model().(taskflow.ErrorResponse)
		if !ok {
			log.Fatalf("no typed error: %T", refusal.Model())
		}
		return body
	}
}

func must(holds bool, what string, seen any) {
	if !holds {
		log.Fatalf("%s: %v", what, seen)
	}
}

// logIn registers, logs in, and goes on with an API key.
func logIn(ctx context.Context, name string) taskflow.TasksAPI {
	anonymous := client("").AccountsAPI
	registration := taskflow.NewUserCreate(name, name+"@example.com", password)
	user := told(anonymous.CreateUser(ctx).UserCreate(*registration).Execute())
	must(user.Data.Username == name, "another name", user.Data)
	taken := refused[*taskflow.UserResponse](http.StatusConflict)(
		anonymous.CreateUser(ctx).UserCreate(*registration).Execute())
	must(taken.Code == "username_taken", "another code", taken)

	token := told(anonymous.CreateToken(ctx).
		GrantType("password").Username(name).Password(password).Execute())
	asked := taskflow.NewApiKeyCreate(
		"story", []taskflow.Scope{taskflow.SCOPE_TASKS_READ, taskflow.SCOPE_TASKS_WRITE})
	key := told(client(token.AccessToken).AccountsAPI.CreateApiKey(ctx).ApiKeyCreate(*asked).Execute())
	return client(key.Data.Key).TasksAPI
}

func titlesByCursor(ctx context.Context, tasks taskflow.TasksAPI) []string {
	var titles []string
	request := tasks.ListTasks(ctx).PerPage(2)
	for {
		page := told(request.Execute()).Data
		for _, task := range page.Tasks {
			titles = append(titles, task.Title)
		}
		cursor := page.NextCursor.Get()
		if cursor == nil {
			return titles
		}
		request = tasks.ListTasks(ctx).PerPage(2).Cursor(*cursor)
	}
}

func titlesInTrash(ctx context.Context, tasks taskflow.TasksAPI) []string {
	titles := []string{}
	for _, task := range told(tasks.ListTrash(ctx).Execute()).Data.Tasks {
		titles = append(titles, task.Title)
	}
	return titles
}

func main() {
	ctx := context.Background()
	name := os.Args[1]
	tasks := logIn(ctx, name)

	body := taskflow.NewTaskCreate("Water the plants")
	body.SetPriority(taskflow.TASKPRIORITY_HIGH)
	created, response, err := tasks.CreateTask(ctx).TaskCreate(*body).IdempotencyKey(name).Execute()
	task := told(created, response, err).Data
	etag := response.Header.Get("ETag")
	again := told(tasks.CreateTask(ctx).TaskCreate(*body).IdempotencyKey(name).Execute())
	must(again.Data.Id == task.Id, "another task", again.Data)

	for number := range 4 {
		title := fmt.Sprintf("Task %d", number)
		told(tasks.CreateTask(ctx).TaskCreate(*taskflow.NewTaskCreate(title)).Execute())
	}
	titles := titlesByCursor(ctx, tasks)
	wanted := []string{"Task 3", "Task 2", "Task 1", "Task 0", "Water the plants"}
	must(slices.Equal(titles, wanted), "other titles", titles)

	change := taskflow.NewTaskUpdate()
	change.SetStatus(taskflow.TASKSTATUS_COMPLETED)
	done := told(tasks.UpdateTask(ctx, task.Id).TaskUpdate(*change).IfMatch(etag).Execute()).Data
	must(done.Version == 2 && done.CompletedAt.IsSet(), "not completed", done)
	late := taskflow.NewTaskUpdate()
	late.SetTitle("Too late")
	conflict := refused[*taskflow.TaskResponse](http.StatusPreconditionFailed)(
		tasks.UpdateTask(ctx, task.Id).TaskUpdate(*late).IfMatch(etag).Execute())
	must(conflict.Code == "version_conflict", "another code", conflict)

	blank := refused[*taskflow.TaskResponse](http.StatusBadRequest)(
		tasks.CreateTask(ctx).TaskCreate(*taskflow.NewTaskCreate("")).Execute())
	must(len(blank.Errors) == 1 && blank.Errors[0].Field == "body.title", "other fields", blank)

	watered := taskflow.NewTaskUpdate()
	watered.SetTitle("Watered")
	create := taskflow.NewCreateOperation("create", *taskflow.NewTaskCreate("From a batch"))
	update := taskflow.NewUpdateOperation("update", task.Id, *watered)
	update.SetVersion(2)
	remove := taskflow.NewDeleteOperation("delete", task.Id)
	batch := told(tasks.RunBatch(ctx).TaskBatch(*taskflow.NewTaskBatch(
		[]taskflow.TaskBatchOperationsInner{
			taskflow.CreateOperationAsTaskBatchOperationsInner(create),
			taskflow.UpdateOperationAsTaskBatchOperationsInner(update),
			taskflow.DeleteOperationAsTaskBatchOperationsInner(remove),
		})).Execute())
	for index, status := range []int32{201, 200, 200} {
		result := batch.Data.Results[index]
		must(result.Status == status, "another result", result)
	}

	trash := titlesInTrash(ctx, tasks)
	must(slices.Equal(trash, []string{"Watered"}), "another trash", trash)
	refused[*taskflow.TaskResponse](http.StatusNotFound)(tasks.ReadTask(ctx, task.Id).Execute())
	restored := told(tasks.RestoreTask(ctx, task.Id).Execute())
	must(restored.Data.Title == "Watered", "another task", restored.Data)
	told(tasks.DeleteTask(ctx, task.Id).Permanent(true).Execute())
	must(len(titlesInTrash(ctx, tasks)) == 0, "something in the trash", nil)

	call := taskflow.NewTaskReplace("Call Ana")
	made, response, err := tasks.PutTask(ctx, "crm/7").TaskReplace(*call).Execute()
	first := told(made, response, err).Data
	must(response.StatusCode == http.StatusCreated, "not created", response.Status)
	kept, response, err := tasks.PutTask(ctx, "crm/7").TaskReplace(*call).Execute()
	second := told(kept, response, err).Data
	must(response.StatusCode == http.StatusOK, "created again", response.Status)
	must(first.Id == second.Id && first.Version == second.Version, "another task", second)
	exported := told(tasks.ExportTasks(ctx).ExternalId("crm/7").Execute())
	must(len(exported) == 1 && exported[0].Title == "Call Ana", "another file", exported)
	fmt.Println("The story ends well.")
}
