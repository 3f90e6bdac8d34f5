//! Settings from a file, and what goes before them.

use std::process::{Command, Stdio};

use crate::binary::{Running, deltaplane};
use crate::database::Sqlite;

fn serve(folder: &tempfile::TempDir, settings: &str, arguments: &[&str]) -> Command {
    let file = folder.path().join("settings.yaml");
    std::fs::write(&file, settings).unwrap();
    let mut command = deltaplane(&[&["serve"][..], arguments].concat());
    command.env("DELTAPLANE_CONFIG", file).stdout(Stdio::null());
    command
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let (sqlite, folder) = (Sqlite::new(), tempfile::TempDir::new().unwrap());
    let settings = format!(
        "# a comment\ndatabase_url: {}\nxds_listen: 127.0.0.3:0\nhttp_listen: 127.0.0.3:0\nlog_format: text\n",
        sqlite.url()
    );
    let (_server, xds, http) = Running::start(serve(&folder, &settings, &[]));
    assert!(xds.starts_with("127.0.0.3:") && http.starts_with("127.0.0.3:"), "{xds} {http}");

    let mut command = serve(&folder, &settings, &["--http-listen", "127.0.0.5:0"]);
    command.env("XDS_LISTEN", "127.0.0.4:0").env("HTTP_LISTEN", "127.0.0.4:0");
    let (_server, xds, http) = Running::start(command);
    assert!(xds.starts_with("127.0.0.4:") && http.starts_with("127.0.0.5:"), "{xds} {http}");

    // The port alone is the environment's word, too.
    let mut command = serve(&folder, &settings, &[]);
    command.env("XDS_GRPC_PORT", "0");
    let (_server, xds, http) = Running::start(command);
    assert!(xds.starts_with("127.0.0.1:") && http.starts_with("127.0.0.3:"), "{xds} {http}");
}

#[test]
fn what_is_wrong_with_the_file_is_told() {
    let folder = tempfile::TempDir::new().unwrap();
    let cases = [
        ("colour: red", "\"colour\" is no setting; write one of"),
        ("config: other.yaml", "\"config\" is no setting"),
        ("xds_listen: [1]", "\"xds_listen\" is no text"),
        ("drain_time_s: soon", "--drain-time-s"),
        ("xds_listen", "no YAML object"),
        ("a: [", "no YAML object"),
    ];
    for (settings, why) in cases {
        let output = serve(&folder, settings, &[]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{settings}: {said}");
        assert!(said.contains(why), "{settings}: {said}");
    }
    let settings = "database_url: postgres://me:hidden@127.0.0.1:99999/d\nsecret_key: hidden";
    for arguments in [&["--help"][..], &["--drain-time-s", "x"], &[]] {
        let output = serve(&folder, settings, arguments).stdout(Stdio::piped()).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
        assert!(!said.concat().contains("hidden"), "{arguments:?}: {said:?}");
    }
    let output = deltaplane(&["serve", "--config", "/no/such/file"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/no/such/file") && said.contains("cannot be read"), "{said}");
}
