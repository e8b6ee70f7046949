//! The files of the watch page, made part of the program by `build.rs`. A program that was built
//! without them says so, and how to mend it.

/// Name and bytes of each file of `web/dist/`, sorted; none if the page was not built.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/watch_assets.rs"));

const PAGE: &str = "index.html";

const PLACEHOLDER: &str = include_str!("assets/placeholder.html");

/// Whether the watch page is part of this program. If not, [`watch_asset`] answers for the page
/// itself with a placeholder, to be sent with status 503 or the like.
pub const WATCH_BUILT: bool = !FILES.is_empty();

/// The file at `path` below `/watch/` with its content type; the empty path is the page.
pub fn watch_asset(path: &str) -> Option<(&'static [u8], &'static str)> {
    let name = if path.is_empty() { PAGE } else { path };
    find(FILES, name).map(|bytes| (bytes, content_type(name)))
}

fn find(files: &[(&str, &'static [u8])], name: &str) -> Option<&'static [u8]> {
    if files.is_empty() && name == PAGE {
        return Some(PLACEHOLDER.as_bytes());
    }
    files
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, bytes)| *bytes)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_there_whether_built_or_not() {
        for path in ["", "index.html"] {
            let (bytes, content_type) = watch_asset(path).unwrap();
            assert!(bytes.starts_with(b"<!doctype html>"));
            assert_eq!(content_type, "text/html; charset=utf-8");
        }
        assert_eq!(watch_asset("watch.js").is_some(), WATCH_BUILT);
    }

    #[test]
    fn without_the_page_the_placeholder_names_the_command_that_makes_it() {
        let page = std::str::from_utf8(find(&[], PAGE).unwrap()).unwrap();
        assert!(page.contains("npm ci"), "{page}");
        assert_eq!(find(&[], "watch.js"), None);
    }

    #[test]
    fn a_path_that_is_no_file_of_the_page_is_not_found() {
        for path in ["../index.html", "/index.html", "nothing.js"] {
            assert_eq!(watch_asset(path), None, "{path}");
        }
    }

    #[test]
    fn a_built_page_is_served_instead_of_the_placeholder() {
        let files: &[(&str, &'static [u8])] = &[("index.html", b"page"), ("watch.js", b"js")];
        assert_eq!(find(files, PAGE), Some(&b"page"[..]));
        assert_eq!(find(files, "watch.js"), Some(&b"js"[..]));
    }
}
