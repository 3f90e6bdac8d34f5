use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::database::Sqlite;

pub(crate) fn deltaplane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deltaplane"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in [
        "DATABASE_URL",
        "XDS_LISTEN",
        "HTTP_LISTEN",
        "METRICS_LISTEN",
        "XDS_GRPC_PORT",
        "XDS_HTTP_PORT",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
}

/// What a command that must fail says.
fn failure(arguments: &[&str], code: i32) -> String {
    let output = deltaplane(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

pub(crate) fn serve(url: &str) -> Command {
    let listen = ["--xds-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    deltaplane(&[&["serve", "--database-url", url][..], &listen].concat())
}

/// Kills what a failed test would leave behind.
pub(crate) struct Running(Child, BufReader<ChildStderr>);

impl Running {
    /// Returns the address of each face as the log says it.
    pub(crate) fn start(mut command: Command) -> (Running, String, String) {
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Running(child, log);
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert_ne!(running.1.read_line(&mut line).unwrap(), 0, "it ended early");
        }
        let field = |name: &str| {
            let rest = line.split(&format!("{name}=")).nth(1).unwrap();
            rest.split_whitespace().next().unwrap().to_owned()
        };
        (running, field("xds"), field("http"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn serves_until_it_is_told_to_end() {
    for signal in ["-TERM", "-INT"] {
        let sqlite = Sqlite::new();
        let (mut server, xds, http) = Running::start(serve(&sqlite.url()));
        assert_ne!(xds, http);
        let mut connection = std::net::TcpStream::connect(http).unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        connection.write_all(request).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"status\":\"ok\""));
        // An open connection that asks for nothing holds nobody up for long.
        let _idle = (signal == "-INT").then(|| std::net::TcpStream::connect(xds).unwrap());
        let id = server.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        assert_eq!(server.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn ports_alone_come_from_the_environment() {
    let sqlite = Sqlite::new();
    let mut command = deltaplane(&["serve", "--database-url", &sqlite.url()]);
    command.env("XDS_GRPC_PORT", "0").env("XDS_HTTP_PORT", "0").env("HTTP_LISTEN", "127.0.0.2:0");
    let (_server, xds, http) = Running::start(command);
    assert!(xds.starts_with("127.0.0.1:") && http.starts_with("127.0.0.2:"), "{xds} {http}");
}

#[test]
fn logs_in_json() {
    let sqlite = Sqlite::new();
    let mut command = serve(&sqlite.url());
    let mut child = command.args(["--log-format", "json"]).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = |line: std::io::Result<String>| serde_json::from_str(&line.unwrap()).unwrap();
    // On a slow disk, the database has something to say before.
    let is_published = |said: &serde_json::Value| said["fields"]["message"] == "published";
    let published = lines.map(said).find(is_published).unwrap();
    assert_eq!(published["level"], "INFO");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn databases_that_cannot_be_used() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("junk.db"), "x".repeat(5000)).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let urls = [
        "nonsense".to_owned(),
        "mysql://me:secret@h/d".to_owned(),
        "sqlite::memory:".to_owned(),
        format!("sqlite://{}", path("no/such/folder.db").display()),
        format!("sqlite://{}", path("junk.db").display()),
        format!("postgres://me:secret@127.0.0.1:{port}/d?password=secret"),
        "postgres://me:secret@[::1/d".to_owned(),
        "postgres://me:secret@127.0.0.1:99999/d".to_owned(),
    ];
    for url in urls {
        let output = serve(&url).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{url}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("--database-url") && !said.contains("secret"), "{said}");
    }
}

#[tokio::test]
async fn a_database_of_somebody_else() {
    let sqlite = Sqlite::new();
    let url = format!("{}?mode=rwc", sqlite.url());
    crate::database::execute(&url, "CREATE TABLE services (x TEXT)").await;
    let said = String::from_utf8(serve(&sqlite.url()).output().unwrap().stderr).unwrap();
    assert!(said.contains("services already exists") && said.contains("empty"), "{said}");
}

#[test]
fn ports_that_are_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, other) in [("--xds-listen", "--http-listen"), ("--http-listen", "--xds-listen")] {
        let said = failure(&["serve", other, "127.0.0.1:0", flag, &address], 1);
        assert!(said.contains(&address) && said.contains(flag), "{said}");
    }
    let others = ["serve", "--xds-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let said = failure(&[&others[..], &["--metrics-listen", &address]].concat(), 1);
    assert!(said.contains(&address) && said.contains("--metrics-listen"), "{said}");
    assert!(failure(&["serve", "--xds-listen", "nonsense"], 1).contains("--xds-listen"));
    assert!(failure(&["serve", "--listener-address", "x"], 2).contains("--listener-address"));
}

#[test]
fn bootstraps() {
    let id = "a\"b: {x}\n#'";
    let output = deltaplane(&["bootstrap", "--node-id", id, "--variant", "sotw"]).output().unwrap();
    let yaml = String::from_utf8(output.stdout).unwrap();
    let quoted = serde_json::Value::from(id).to_string();
    assert!(yaml.contains(&format!("  id: {quoted}\n  cluster: {quoted}\n")), "{yaml}");
    assert!(yaml.contains("api_type: GRPC\n"));
    let address = ["--cluster", "cluster-2", "--xds-address", "[::1]:1", "--admin-port", "9901"];
    let output = deltaplane(&[&["bootstrap", "--node-id", "a"][..], &address].concat()).output();
    let yaml = String::from_utf8(output.unwrap().stdout).unwrap();
    for part in
        ["cluster: \"cluster-2\"", "api_type: DELTA_GRPC", "\"::1\", port_value: 1}", "9901"]
    {
        assert!(yaml.contains(part), "{part} in {yaml}");
    }
    for bad in ["x", "x:", ":1", "x:0", "x:70000", "a b:1"] {
        assert!(
            failure(&["bootstrap", "--node-id", "a", "--xds-address", bad], 1)
                .contains("HOST:PORT")
        );
    }
}

#[test]
fn bootstraps_of_several_servers() {
    let of = |more: &[&str]| {
        let output = deltaplane(&[&["bootstrap", "--node-id", "a"][..], more].concat()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let yaml = of(&["--xds-address", "127.0.0.1:1,[::1]:2", "--xds-address", "127.0.0.2:3"]);
    for (host, port) in [("127.0.0.1", 1), ("::1", 2), ("127.0.0.2", 3)] {
        let endpoint = format!("socket_address: {{address: \"{host}\", port_value: {port}}}\n");
        assert_eq!(yaml.matches(&endpoint).count(), 1, "{yaml}");
    }
    assert!(yaml.contains("type: STATIC\n"), "{yaml}");
    let names = ["--xds-address", "one.test:1,two.test:1", "--tls-ca", "ca.pem"];
    let yaml = of(&names);
    assert!(yaml.contains("type: STRICT_DNS\n") && yaml.contains("sni: \"one.test\""), "{yaml}");
    for name in ["one.test", "two.test"] {
        assert!(yaml.contains(&format!("{{san_type: DNS, matcher: {{exact: \"{name}\"}}}}")));
    }
    let yaml = of(&[&names[..], &["--tls-server-name", "xds.test"]].concat());
    assert!(yaml.contains("sni: \"xds.test\"") && !yaml.contains("exact: \"two.test\""), "{yaml}");
    assert!(
        failure(&["bootstrap", "--node-id", "a", "--xds-address", "a:1,b"], 1).contains("\"b\"")
    );
}

#[test]
fn bootstraps_without_ads() {
    let output = deltaplane(&["bootstrap", "--node-id", "a", "--separate"]).output().unwrap();
    let yaml = String::from_utf8(output.stdout).unwrap();
    for part in ["cds_config", "lds_config"] {
        let own = format!("  {part}:\n    resource_api_version: V3\n    api_config_source:\n");
        assert!(yaml.contains(&own), "{yaml}");
    }
    assert!(!yaml.contains("ads"), "{yaml}");
}

#[test]
fn keys_that_are_none_are_told_and_not_shown() {
    let sqlite = Sqlite::new();
    let key = sqlite.file().with_extension("key");
    std::fs::write(&key, "do not tell").unwrap();
    let url = sqlite.url();
    let serve = ["serve", "--database-url", &url, "--secret-key-file"];
    for (path, word) in [(key.to_str().unwrap(), "openssl rand"), ("/nowhere", "cannot be read")] {
        let said = failure(&[&serve[..], &[path]].concat(), 1);
        assert!(said.contains(word) && said.contains(path), "{said}");
        assert!(!said.contains("do not tell"), "{said}");
    }
}
