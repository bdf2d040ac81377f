//! Generates the gRPC service of the `tonic` system without `protoc`, by tonic's own builder for that.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "tonic")]
    tonic_build::manual::Builder::new().compile(&[service()]);
}

#[cfg(feature = "tonic")]
fn service() -> tonic_build::manual::Service {
    let method = |name: &str, route: &str, output: &str| {
        tonic_build::manual::Method::builder()
            .name(name)
            .route_name(route)
            .input_type("crate::systems::tonic::Payload")
            .output_type(output)
            .codec_path("tonic_prost::ProstCodec")
    };
    let (payload, empty) = ("crate::systems::tonic::Payload", "crate::systems::tonic::Empty");
    tonic_build::manual::Service::builder()
        .name("Bench")
        .package("peers")
        .method(method("echo", "Echo", payload).build())
        .method(method("sink", "Sink", empty).build())
        .method(method("tick", "Tick", empty).client_streaming().build())
        .build()
}
