//! What the simulation has found about links, each as a test of its own that failed before.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dynamo_am::transport::sim::{Dice, FaultRates, SimNetwork};
use dynamo_am::{ActiveMessageManager, Handler, Limits, LinkEvent, LinkEvents, ManagerBuilder};
use dynamo_am_sim::pass;
use tokio::time::advance;

fn network(rates: FaultRates) -> SimNetwork {
    SimNetwork::new(Dice::new(7), rates, Box::new(|_| ()))
}

fn address(host: u8) -> SocketAddr {
    (IpAddr::from([10, 0, 0, host]), 7000).into()
}

fn endpoint(host: u8) -> String {
    format!("tcp://{}", address(host))
}

fn builder(net: &SimNetwork, host: u8) -> ManagerBuilder {
    ActiveMessageManager::builder()
        .transport(net.transport(address(host).ip()))
        .allow_insecure()
        .no_ipc()
        .identity(dynamo_am_sim::scenario::identity(host, 0))
        .seed(host.into())
        .listen(endpoint(host))
}

async fn start(net: &SimNetwork, host: u8) -> ActiveMessageManager {
    let node = builder(net, host).start().await.unwrap();
    node.register(Handler::inline("double", |_cx, n: u64| Ok(n * 2))).unwrap();
    node
}

/// The events that have happened so far: `true` is up, `false` is down.
async fn ups_and_downs(events: &mut LinkEvents) -> Vec<bool> {
    let mut seen = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(1), events.next()).await {
        match event {
            LinkEvent::Up { .. } => seen.push(true),
            LinkEvent::Down { .. } => seen.push(false),
            _ => {}
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_for_long_takes_no_idle_link_for_dead() {
    let net = network(FaultRates::none());
    let (a, b) = (start(&net, 1).await, start(&net, 2).await);
    let peer = a.client().connect(endpoint(2)).await.unwrap();
    pass(Duration::from_secs(3)).await;
    let mut events = a.client().link_events();
    advance(Duration::from_secs(20)).await;
    pass(Duration::from_secs(5)).await;
    assert_eq!(a.client().myself().call::<u64>("double", &1u64).await.unwrap(), 2);
    assert_eq!(peer.call::<u64>("double", &2u64).await.unwrap(), 4);
    assert_eq!(ups_and_downs(&mut events).await, Vec::<bool>::new(), "the link was made anew");
    drop((a, b));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_left_and_met_again_at_once_is_down_and_then_up() {
    let net = network(FaultRates { latency_ms: 5, ..FaultRates::none() });
    let (a, b) = (start(&net, 1).await, start(&net, 2).await);
    let peer = a.client().connect(endpoint(2)).await.unwrap();
    let mut events = a.client().link_events();
    a.client().disconnect(&peer).await;
    let again = a.client().connect(endpoint(2)).await.unwrap();
    pass(Duration::from_secs(10)).await;
    assert_eq!(ups_and_downs(&mut events).await, [false, true]);
    assert_eq!(again.call::<u64>("double", &1u64).await.unwrap(), 2);
    assert!(a.client().peer(b.instance_id()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_both_sides_dialled_is_dialled_again_by_the_side_whose_link_was_given_up() {
    let net = network(FaultRates { latency_ms: 5, ..FaultRates::none() });
    let (one, two) = (start(&net, 1).await, start(&net, 2).await);
    let lower_is_one = one.instance_id() < two.instance_id();
    // The link that the lower id dialled stays; the higher one must dial again when the lower has been restarted.
    let (lower, lower_host, higher, higher_host) =
        if lower_is_one { (one, 1, two, 2) } else { (two, 2, one, 1) };
    let (from, to) = (lower.client(), higher.client());
    let (first, second) = tokio::join!(from.connect(endpoint(higher_host)), to.connect(endpoint(lower_host)));
    let peer = second.unwrap();
    drop(first.unwrap());
    pass(Duration::from_secs(2)).await;
    drop(lower);
    pass(Duration::from_millis(500)).await;
    let again = start(&net, lower_host).await;
    pass(Duration::from_secs(10)).await;
    assert_eq!(peer.call::<u64>("double", &4u64).await.unwrap(), 8);
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn two_dials_at_once_leave_one_link() {
    let net = network(FaultRates { latency_ms: 5, ..FaultRates::none() });
    let (a, b) = (start(&net, 1).await, start(&net, 2).await);
    let client = a.client();
    let (first, second) = tokio::join!(client.connect(endpoint(2)), client.connect(endpoint(2)));
    assert_eq!(first.unwrap().instance_id(), second.unwrap().instance_id());
    pass(Duration::from_secs(10)).await;
    for node in [&a, &b] {
        let links: Vec<_> = node.tables().peers.into_iter().map(|(_, links)| links).collect();
        assert_eq!(links, [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_redial_that_is_given_up_forgets_no_peer_that_came_meanwhile() {
    let net = network(FaultRates { latency_ms: 5, ..FaultRates::none() });
    let (a, b) = (start(&net, 1).await, start(&net, 2).await);
    let peer = a.client().connect(endpoint(2)).await.unwrap();
    let instance = b.instance_id();
    drop(b);
    // The pauses between redials have grown to seconds by then.
    pass(Duration::from_secs(20)).await;
    a.client().disconnect(&peer).await;
    let b = start(&net, 2).await;
    a.client().connect(endpoint(2)).await.unwrap();
    pass(Duration::from_secs(20)).await;
    assert!(a.client().peer(instance).is_some(), "the old redial took the new peer out");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn much_data_on_its_slow_way_is_life() {
    let net = network(FaultRates { latency_ms: 40, capacity_max: 256, ..FaultRates::none() });
    let limits = Limits { request_timeout: Duration::from_secs(120), ..Limits::default() };
    let a = builder(&net, 1).limits(limits).start().await.unwrap();
    let b = start(&net, 2).await;
    b.register(Handler::unary("len", |_cx, text: String| async move { Ok(text.len() as u64) })).unwrap();
    let peer = a.client().connect(endpoint(2)).await.unwrap();
    let text = "x".repeat(50_000);
    assert_eq!(peer.call::<u64>("len", &text).await.unwrap(), 50_000);
}
