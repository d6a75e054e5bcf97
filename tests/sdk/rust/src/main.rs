//! What a user of the generated client does, from the registration to the trash.
use std::error::Error as AnyError;

use taskflow_client::apis::accounts_api::{self, CreateUserError};
use taskflow_client::apis::configuration::Configuration;
use taskflow_client::apis::tasks_api::{self, CreateTaskError, UpdateTaskError};
use taskflow_client::apis::{Error, ResponseContent};
use taskflow_client::models::{
    ApiKeyCreate, CreateOperation, DeleteOperation, ErrorResponse, Scope, TaskBatch,
    TaskBatchOperationsInner, TaskCreate, TaskPriority, TaskReplace, TaskStatus, TaskUpdate,
    UpdateOperation, UserCreate, create_operation, delete_operation, update_operation,
};

const PASSWORD: &str = "correct horse battery staple";
type Told<T> = Result<T, Box<dyn AnyError>>;

/// The status and the body's typed kind of a refusal.
fn refused<T, E>(answer: Result<T, Error<E>>) -> (u16, E) {
    match answer {
        Err(Error::ResponseError(ResponseContent {
            status,
            entity: Some(error),
            ..
        })) => (status.as_u16(), error),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("this should have been refused"),
    }
}

fn client(url: &str, credential: Option<&str>) -> Configuration {
    Configuration {
        base_path: url.to_owned(),
        bearer_access_token: credential.map(str::to_owned),
        ..Configuration::new()
    }
}

/// Register, log in, and go on with an API key.
async fn log_in(url: &str, name: &str) -> Told<Configuration> {
    let anonymous = client(url, None);
    let registration = accounts_api::CreateUserParams {
        user_create: UserCreate::new(
            name.to_owned(),
            format!("{name}@example.com"),
            PASSWORD.to_owned(),
        ),
    };
    let user = accounts_api::create_user(&anonymous, registration.clone()).await?;
    assert_eq!(user.data.username, name);
    let (status, error) = refused(accounts_api::create_user(&anonymous, registration).await);
    assert_eq!(status, 409);
    // All errors share one shape, of which the first that fits is taken.
    let (CreateUserError::Status400(error) | CreateUserError::Status409(error)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.code, "username_taken");

    let grant = accounts_api::CreateTokenParams {
        grant_type: "password".to_owned(),
        username: name.to_owned(),
        password: PASSWORD.to_owned(),
        scope: None,
    };
    let token = accounts_api::create_token(&anonymous, grant).await?;
    let person = client(url, Some(&token.access_token));
    let asked = accounts_api::CreateApiKeyParams {
        api_key_create: ApiKeyCreate::new(
            "story".to_owned(),
            vec![Scope::TasksColonRead, Scope::TasksColonWrite],
        ),
    };
    let key = accounts_api::create_api_key(&person, asked).await?;
    Ok(client(url, Some(&key.data.key)))
}

async fn titles_by_cursor(client: &Configuration) -> Told<Vec<String>> {
    let mut titles = Vec::new();
    let mut cursor = None;
    loop {
        let params = tasks_api::ListTasksParams {
            per_page: Some(2),
            cursor,
            page: None,
            count: None,
            status: None,
            priority: None,
            tag: None,
            q: None,
            due_after: None,
            due_before: None,
            overdue: None,
            created_after: None,
            created_before: None,
            updated_after: None,
            updated_before: None,
            external_id: None,
            time_zone: None,
            sort: None,
        };
        let page = tasks_api::list_tasks(client, params).await?.data;
        titles.extend(page.tasks.into_iter().map(|task| task.title));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(titles);
        }
    }
}

async fn titles_in_trash(client: &Configuration) -> Told<Vec<String>> {
    let params = tasks_api::ListTrashParams {
        page: None,
        per_page: None,
        count: None,
        cursor: None,
    };
    let page = tasks_api::list_trash(client, params).await?.data;
    Ok(page.tasks.into_iter().map(|task| task.title).collect())
}

async fn exported_titles(client: &Configuration, external_id: &str) -> Told<Vec<String>> {
    let params = tasks_api::ExportTasksParams {
        status: None,
        priority: None,
        tag: None,
        q: None,
        due_after: None,
        due_before: None,
        overdue: None,
        created_after: None,
        created_before: None,
        updated_after: None,
        updated_before: None,
        external_id: Some(external_id.to_owned()),
        time_zone: None,
        format: None,
    };
    let tasks = tasks_api::export_tasks(client, params).await?;
    Ok(tasks.into_iter().map(|task| task.title).collect())
}

fn creation(title: &str, idempotency_key: Option<&str>) -> tasks_api::CreateTaskParams {
    tasks_api::CreateTaskParams {
        task_create: TaskCreate {
            priority: Some(TaskPriority::High),
            ..TaskCreate::new(title.to_owned())
        },
        idempotency_key: idempotency_key.map(str::to_owned),
    }
}

fn operations(id: i64) -> Vec<TaskBatchOperationsInner> {
    let create = CreateOperation::new(
        create_operation::Op::Create,
        TaskCreate::new("From a batch".to_owned()),
    );
    let changes = TaskUpdate {
        title: Some("Watered".to_owned()),
        ..TaskUpdate::new()
    };
    let update = UpdateOperation {
        version: Some(2),
        ..UpdateOperation::new(update_operation::Op::Update, id, changes)
    };
    let delete = DeleteOperation::new(delete_operation::Op::Delete, id);
    vec![
        TaskBatchOperationsInner::CreateOperation(Box::new(create)),
        TaskBatchOperationsInner::UpdateOperation(Box::new(update)),
        TaskBatchOperationsInner::DeleteOperation(Box::new(delete)),
    ]
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Told<()> {
    let url = std::env::var("TASKFLOW_URL")?;
    let name = std::env::args()
        .nth(1)
        .ok_or("usage: story <a new username>")?;
    let client = log_in(&url, &name).await?;

    let task = tasks_api::create_task(&client, creation("Water the plants", Some(&name))).await?;
    let again = tasks_api::create_task(&client, creation("Water the plants", Some(&name))).await?;
    assert_eq!(again.data.id, task.data.id);
    let id = task.data.id;

    for number in 0..4 {
        tasks_api::create_task(&client, creation(&format!("Task {number}"), None)).await?;
    }
    assert_eq!(
        titles_by_cursor(&client).await?,
        ["Task 3", "Task 2", "Task 1", "Task 0", "Water the plants"]
    );

    // This client shows no headers; the ETag is the id and the version, which the document says.
    let if_match = Some(format!("\"{id}-{}\"", task.data.version));
    let patch = |task_update| tasks_api::UpdateTaskParams {
        task_id: id,
        task_update,
        if_match: if_match.clone(),
    };
    let completed = TaskUpdate {
        status: Some(TaskStatus::Completed),
        ..TaskUpdate::new()
    };
    let done = tasks_api::update_task(&client, patch(completed)).await?;
    assert_eq!(done.data.version, 2);
    assert!(done.data.completed_at.is_some());
    let late = TaskUpdate {
        title: Some("Too late".to_owned()),
        ..TaskUpdate::new()
    };
    let (status, error) = refused(tasks_api::update_task(&client, patch(late)).await);
    assert_eq!(status, 412);
    let (UpdateTaskError::Status400(error) | UpdateTaskError::Status412(error)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.code, "version_conflict");

    let (status, error) = refused(tasks_api::create_task(&client, creation("", None)).await);
    assert_eq!(status, 400);
    let CreateTaskError::Status400(ErrorResponse {
        errors: Some(errors),
        ..
    }) = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(errors[0].field, "body.title");

    let batch = tasks_api::RunBatchParams {
        task_batch: TaskBatch::new(operations(id)),
        idempotency_key: None,
    };
    let results = tasks_api::run_batch(&client, batch).await?.data.results;
    let statuses: Vec<_> = results.iter().map(|result| result.status).collect();
    assert_eq!(statuses, [201, 200, 200]);

    assert_eq!(titles_in_trash(&client).await?, ["Watered"]);
    let read = tasks_api::ReadTaskParams {
        task_id: id,
        if_none_match: None,
    };
    assert_eq!(refused(tasks_api::read_task(&client, read).await).0, 404);
    let restore = tasks_api::RestoreTaskParams {
        task_id: id,
        if_match: None,
    };
    assert_eq!(
        tasks_api::restore_task(&client, restore).await?.data.title,
        "Watered"
    );
    let delete = tasks_api::DeleteTaskParams {
        task_id: id,
        permanent: Some(true),
        if_match: None,
    };
    tasks_api::delete_task(&client, delete).await?;
    assert!(titles_in_trash(&client).await?.is_empty());

    let wanted = tasks_api::PutTaskParams {
        external_id: "crm/7".to_owned(),
        task_replace: TaskReplace::new("Call Ana".to_owned()),
        if_match: None,
        if_none_match: None,
    };
    let made = tasks_api::put_task(&client, wanted.clone()).await?.data;
    let kept = tasks_api::put_task(&client, wanted).await?.data;
    assert_eq!(kept, made);
    assert_eq!(exported_titles(&client, "crm/7").await?, ["Call Ana"]);
    println!("The story ends well.");
    Ok(())
}
