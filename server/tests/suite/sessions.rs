//! Only the newest session of a device speaks, and only if it knows what the device has committed.

use crate::client::{Served, good, refused, serve};
use crate::support::*;
use syncmount_common::protocol::changes::{ChangesPage, Device};
use syncmount_common::protocol::commit::{CommitRequest, Committed};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::session::Session;
use syncmount_common::{DeviceId, OpId, Seq};
use syncmount_server::service::{Changes, Poll, ServiceError};

fn session(number: u64, nonce: u64, acknowledged: Seq) -> Session {
    Session { number, nonce, acknowledged, unanswered: None }
}

impl World {
    async fn speak(&self, session: Session) -> Result<Committed, ServiceError> {
        self.speak_as(op_id(), session).await
    }

    async fn speak_as(&self, op_id: OpId, session: Session) -> Result<Committed, ServiceError> {
        let made = id();
        let ops = vec![mkdir(made, ROOT, &format!("{made}"))];
        let request = CommitRequest { op_id, session: Some(session), ..request(self.cursor().await.epoch, ops) };
        self.service.commit(F, request, Vec::new()).await
    }

    async fn listen(&self, session: Session) -> Result<Changes, ServiceError> {
        let device = Some(device().id);
        let poll =
            Poll { since: None, known: None, limit: 100, inline: 0, device, session: Some(session), extra: false };
        self.service.poll(F, poll, std::future::ready(())).await
    }
}

#[track_caller]
fn superseded<T: std::fmt::Debug>(result: &Result<T, ServiceError>) {
    assert!(matches!(result, Err(ServiceError::Superseded)), "{result:?}");
}

#[tokio::test]
async fn a_later_session_ends_the_earlier_ones_from_its_first_word_on() {
    for world in worlds().await {
        let done = world.speak(session(1, 10, 0)).await.unwrap();
        world.listen(session(1, 10, 0)).await.unwrap();
        world.listen(session(2, 20, done.last_seq)).await.unwrap();
        let before = world.all().await;
        superseded(&world.speak(session(1, 10, 0)).await);
        superseded(&world.listen(session(1, 10, 0)).await);
        assert_eq!(world.all().await, before, "nothing of the earlier one lands ({})", world.kind);
        let later = world.speak(session(3, 30, done.last_seq)).await.unwrap();
        superseded(&world.listen(session(2, 20, done.last_seq)).await);
        world.listen(session(3, 30, done.last_seq)).await.unwrap();
        assert_eq!(world.speak(session(3, 30, done.last_seq)).await.unwrap().first_seq, later.last_seq + 1);
    }
}

#[tokio::test]
async fn of_two_that_began_alike_the_second_is_refused() {
    for world in worlds().await {
        world.listen(session(4, 40, 0)).await.unwrap();
        superseded(&world.listen(session(4, 41, 0)).await);
        superseded(&world.speak(session(4, 41, 0)).await);
        world.listen(session(4, 40, 0)).await.unwrap();
    }
}

#[tokio::test]
async fn who_does_not_know_the_devices_newest_commit_was_set_back() {
    for world in worlds().await {
        let first = world.speak(session(1, 10, 0)).await.unwrap();
        let op = op_id();
        let second = world.speak_as(op, session(1, 10, 0)).await.unwrap();
        superseded(&world.listen(session(2, 20, first.last_seq)).await);
        superseded(&world.speak(session(9, 20, first.last_seq)).await);
        let wrong = Session { unanswered: Some(op_id()), ..session(2, 20, first.last_seq) };
        superseded(&world.listen(wrong).await);
        // Killed before it heard the answer.
        let unanswered = Session { unanswered: Some(op), ..session(2, 20, first.last_seq) };
        world.listen(unanswered).await.unwrap();
        world.listen(session(3, 30, second.last_seq)).await.unwrap();
        // The server knows less than the client: it was set back itself.
        world.listen(session(4, 40, second.last_seq + 100)).await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_is_given_again_in_a_session_that_is_over() {
    for world in worlds().await {
        let op = op_id();
        let done = world.speak_as(op, session(1, 10, 0)).await.unwrap();
        world.listen(session(2, 20, done.last_seq)).await.unwrap();
        assert_eq!(world.speak_as(op, session(1, 10, 0)).await.unwrap(), done);
        superseded(&world.speak(session(1, 10, 0)).await);
    }
}

#[tokio::test]
async fn a_refused_commit_begins_no_session_and_other_devices_are_not_meant() {
    for world in worlds().await {
        world.speak(session(1, 10, 0)).await.unwrap();
        let ops = vec![remove(id(), 1)];
        let epoch = world.cursor().await.epoch;
        let next = session(2, 20, 1);
        let refused = CommitRequest { session: Some(next), ..request(epoch, ops) };
        assert!(matches!(world.service.commit(F, refused, Vec::new()).await, Err(ServiceError::Conflict(_))));
        world.listen(session(1, 10, 0)).await.unwrap();
        let phone = Device { id: DeviceId::from_bytes([8; 16]), name: "phone".to_owned() };
        let ops = vec![mkdir(id(), ROOT, "by phone")];
        let other = CommitRequest { device: phone, session: Some(session(1, 99, 0)), ..request(epoch, ops) };
        world.service.commit(F, other, Vec::new()).await.unwrap();
        world.listen(session(1, 10, 0)).await.unwrap();
        // Programs without sessions are not checked.
        world.commit(vec![mkdir(id(), ROOT, "plain")]).await.unwrap();
    }
}

#[tokio::test]
async fn a_held_poll_ends_with_the_session_it_belongs_to() {
    let world = in_memory().await;
    let since = Some(world.cursor().await);
    let poll = |session| Poll {
        since,
        known: None,
        limit: 10,
        inline: 0,
        device: Some(device().id),
        session: Some(session),
        extra: false,
    };
    let service = world.service.clone();
    let earlier = poll(session(1, 10, 0));
    let held = tokio::spawn(async move { service.poll(F, earlier, std::future::pending()).await });
    tokio::task::yield_now().await;
    assert!(!held.is_finished());
    world.service.poll(F, poll(session(2, 20, 0)), std::future::ready(())).await.unwrap();
    world.commit(vec![mkdir(id(), ROOT, "news")]).await.unwrap();
    superseded(&held.await.unwrap());
}

async fn poll(served: &Served, rest: &str) -> reqwest::Response {
    served.changes(None, rest).send().await.unwrap()
}

#[tokio::test]
async fn the_api_takes_sessions_of_one_shape_only() {
    let served = serve().await;
    let device = format!("device={}", device().id);
    let known = format!("{device}&session=2:00000000000000aa:0");
    good::<ChangesPage>(poll(&served, &known).await).await;
    let earlier = format!("{device}&session=1:00000000000000aa:0");
    let body = refused(served.changes(None, &earlier), 409, ErrorCode::Superseded).await;
    assert!(!body.retryable && body.message.contains("another device"), "{}", body.message);
    refused(served.changes(None, "session=2:00000000000000aa:0"), 422, ErrorCode::Invalid).await;
    for bad in ["2", "2:aa:0", "0:00000000000000aa:0", "2:00000000000000aa:0:x"] {
        refused(served.changes(None, &format!("{device}&session={bad}")), 400, ErrorCode::BadRequest).await;
    }
    let path = format!("/v1/folders/{F}/commit");
    let commit = CommitRequest { session: Some(session(1, 0xAA, 0)), ..served.request(Vec::new()).await };
    refused(served.post(&path, &commit), 409, ErrorCode::Superseded).await;
    let mut json = serde_json::to_value(&commit).unwrap();
    json["session"] = serde_json::json!({ "number": 1 });
    refused(served.post(&path, &json), 400, ErrorCode::BadRequest).await;
    json["session"] = serde_json::json!("1:2:3");
    refused(served.post(&path, &json), 422, ErrorCode::Invalid).await;
}
