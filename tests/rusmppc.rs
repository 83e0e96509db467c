//! A client that we did not write, in Rust: `rusmppc` binds with 5.0, submits and gets its receipts.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod common;

use std::str::FromStr;
use std::time::Duration;

use common::{PASSWORD, World};
use futures_util::StreamExt;
use rusmpp::pdus::{BindTransceiver, DeliverSmResp, SubmitSm};
use rusmpp::types::{COctetString, OctetString};
use rusmpp::values::{Npi, RegisteredDelivery, Ton};
use rusmpp::{CommandId, Pdu};
use rusmppc::{ConnectionBuilder, Event};
use serde_json::json;

fn text<const MIN: usize, const MAX: usize>(s: &str) -> COctetString<MIN, MAX> {
    COctetString::from_str(s).unwrap()
}

#[test]
fn rusmppc_submits_and_gets_its_receipts() {
    let world = World::new();
    world.account("acme", "100", json!({}));
    world.up(1);
    let address = format!("smpp://{}", world.addr());
    world.runtime.block_on(async {
        let (client, mut events) = ConnectionBuilder::new()
            .enquire_link_interval(Duration::from_secs(5))
            .response_timeout(Duration::from_secs(20))
            .connect(address)
            .await
            .unwrap();
        client
            .bind_transceiver(
                BindTransceiver::builder()
                    .system_id(text("acme"))
                    .password(text(PASSWORD))
                    .build(),
            )
            .await
            .unwrap();
        let mut ids = Vec::new();
        for n in 0..20 {
            let submit = SubmitSm::builder()
                .source_addr_ton(Ton::Alphanumeric)
                .source_addr(text("ACME"))
                .dest_addr_ton(Ton::International)
                .dest_addr_npi(Npi::Isdn)
                .destination_addr(text(&format!("2547123456{n:02}")))
                .registered_delivery(RegisteredDelivery::request_all())
                .short_message(OctetString::from_str("hello from a client of others").unwrap())
                .build();
            let resp = client.submit_sm(submit).await.unwrap();
            ids.push(resp.message_id().as_str().to_string());
        }
        let mut receipts = Vec::new();
        while receipts.len() < ids.len() {
            let event = tokio::time::timeout(common::WAIT, events.next())
                .await
                .expect("a receipt")
                .expect("the connection is up");
            let Event::Incoming(command) = event else { continue };
            if command.id() != CommandId::DeliverSm {
                continue;
            }
            let sequence = command.sequence_number();
            if let Some(Pdu::DeliverSm(sm)) = command.pdu() {
                let body = sm.short_message().to_str().unwrap().to_string();
                let id = body
                    .split(' ')
                    .next()
                    .unwrap()
                    .trim_start_matches("id:")
                    .to_string();
                assert!(body.contains("stat:DELIVRD"), "{body}");
                receipts.push(id);
            }
            client
                .deliver_sm_resp(sequence, DeliverSmResp::default())
                .await
                .unwrap();
        }
        receipts.sort();
        let mut wanted = ids.clone();
        wanted.sort();
        assert_eq!(receipts, wanted);
        client.enquire_link().await.unwrap();
        client.unbind().await.unwrap();
        client.close().await.unwrap();
        client.closed().await;
    });
    world.reconciles();
}
