#![expect(clippy::unwrap_used, reason = "a test may panic")]
use proptest::prelude::*;

use super::*;

const DATA: u8 = 0;

/// What h2 gets, and how many bytes were held at most, where the bytes come in pieces of such a size.
fn pass(bytes: &[u8], size: usize) -> (Vec<u8>, usize, Blocks) {
    let (mut blocks, mut out, mut most) = (Blocks::new(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        let passed = blocks.pass(piece);
        assert!(passed == piece.len() || blocks.ready.is_empty() || passed == 0 || !out.is_empty() || passed > 0);
        out.extend_from_slice(&piece[..passed]);
        out.append(blocks.ready());
        most = most.max(blocks.held.len());
    }
    (out, most, blocks)
}

fn of(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind, flags, [0, 0, 0, 1], payload)
}

fn preface(frames: &[Vec<u8>]) -> Vec<u8> {
    [vec![b'P'; PREFACE], frames.concat()].concat()
}

const SIZES: [usize; 7] = [1, 3, 9, 10, 100, 16_384, 1 << 20];

#[test]
fn what_is_whole_goes_on_as_it_came() {
    let frames = [
        of(4, 0, &[]),
        of(HEADERS, END_HEADERS, &[0x83; 300]),
        of(DATA, 0, &[7; 60_000]),
        of(HEADERS, END_HEADERS | END_STREAM, &[]),
        of(0x77, 9, &[1; 20]),
    ];
    let bytes = preface(&frames);
    for size in SIZES {
        assert_eq!(pass(&bytes, size).0, bytes, "{size}");
    }
    // Without a copy where it comes at once.
    assert_eq!(Blocks::new().pass(&bytes), bytes.len());
}

#[test]
fn parts_are_put_together_and_wait_until_they_are_whole() {
    let padded = [&[3][..], &[0x83; 10], &[0; 3]].concat();
    let frames = [
        of(HEADERS, END_STREAM | PADDED, &padded),
        of(CONTINUATION, 0, &[0x84; 5]),
        of(CONTINUATION, 0, &[]),
        of(CONTINUATION, END_HEADERS, &[0x85; 5]),
        of(DATA, 0, b"data"),
    ];
    let bytes = preface(&frames);
    let merged = [[0x83; 10].as_slice(), &[0x84; 5], &[0x85; 5]].concat();
    let expected = preface(&[of(HEADERS, END_HEADERS | END_STREAM, &merged), of(DATA, 0, b"data")]);
    for size in SIZES {
        assert_eq!(pass(&bytes, size).0, expected, "{size}");
    }
    let begun = preface(&frames[..3]);
    assert_eq!(pass(&begun, 1 << 20).0, vec![b'P'; PREFACE]);
}

#[test]
fn of_a_block_that_is_too_long_nothing_is_kept_and_what_follows_goes_on() {
    // Literals without an entry of the table: 200 KiB in frames of 16 KiB.
    let field = [
        &[0x00, 1, b'x', 127, 0x81, 0x7f][..],
        &vec![b'y'; 127 + 1 + (0x7f << 7)],
    ]
    .concat();
    let fields = field.repeat(12);
    let mut parts = fields.chunks(16_000).peekable();
    let mut frames = vec![of(HEADERS, END_STREAM, parts.next().unwrap())];
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
        frames.push(of(CONTINUATION, flags, part));
    }
    let after = [of(DATA, 0, b"data"), of(HEADERS, END_HEADERS, &[0x83])];
    let bytes = preface(&[frames.concat(), after.concat()]);
    let instead = of(HEADERS, END_HEADERS | END_STREAM, &block(TOO_LARGE));
    let expected = preface(&[instead, after.concat()]);
    for size in SIZES.into_iter().filter(|size| *size > 1) {
        let (out, most, blocks) = pass(&bytes, size);
        assert!(out == expected, "{size}: {} bytes", out.len());
        assert!(
            !blocks.is_out_of_step() && most <= LONGEST + 2 * 16_384,
            "{size}: {most}"
        );
    }
}

#[test]
fn behind_a_long_block_that_changes_the_table_no_block_is_read() {
    let long = [&[0x40, 1, b'x', 1, b'y'][..], &vec![0x83; LONGEST]].concat();
    let frames = [
        of(HEADERS, END_HEADERS, &long),
        of(DATA, 0, b"data"),
        of(HEADERS, END_HEADERS, &[0xbe]),
        of(HEADERS, 0, &[0xbe]),
        of(CONTINUATION, END_HEADERS, &[0xbe]),
        of(DATA, 0, b"more"),
    ];
    let bytes = preface(&frames);
    let refused = |why| of(HEADERS, END_HEADERS, &block(why));
    let expected = preface(&[
        refused(TOO_LARGE),
        of(DATA, 0, b"data"),
        refused(UNREADABLE),
        refused(UNREADABLE),
        of(DATA, 0, b"more"),
    ]);
    for size in SIZES {
        let (out, _, blocks) = pass(&bytes, size);
        assert!(out == expected && blocks.is_out_of_step(), "{size}");
    }
}

#[test]
fn what_breaks_http_2_is_left_to_h2() {
    let stray = frame(CONTINUATION, END_HEADERS, [0, 0, 0, 3], &[0x83]);
    for frames in [
        vec![of(CONTINUATION, END_HEADERS, &[0x83])],
        vec![of(HEADERS, 0, &[0x83]), of(DATA, 0, b"data")],
        vec![of(HEADERS, 0, &[0x83]), stray.clone()],
        vec![of(HEADERS, END_HEADERS | PADDED, &[9, 0x83]), of(DATA, 0, b"data")],
        [vec![of(HEADERS, 0, &[0x83])], vec![of(CONTINUATION, 0, &[]); 100]].concat(),
    ] {
        let bytes = preface(&frames);
        let (out, _, _) = pass(&bytes, 1 << 20);
        assert_eq!(out, bytes, "{frames:?}");
    }
    // A block without an end.
    let part = of(CONTINUATION, 0, &[0x83; 60_000]).repeat(LONGEST_REFUSED / 60_000 + 2);
    let (out, most, blocks) = pass(&preface(&[of(HEADERS, 0, &[0x83; 60_000]), part]), 16_384);
    let (empty, more) = (of(HEADERS, 0, &[]), of(CONTINUATION, 0, &[]).repeat(MOST_FRAMES));
    assert!(blocks.is_broken && most < 200_000 && out[PREFACE..].starts_with(&[empty, more].concat()));
    // A frame that comes in the middle of a block that is refused.
    let long = of(HEADERS, 0, &vec![0x83; LONGEST + 1]);
    let (out, _, blocks) = pass(&preface(&[long, of(DATA, 0, b"data")]), 100);
    assert!(blocks.is_broken);
    assert_eq!(out, preface(&[of(HEADERS, 0, &[]), of(DATA, 0, b"data")]));
}

/// Frames of some kinds, lengths and flags, of two streams, with what may well be fields.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(DATA),
        Just(HEADERS),
        Just(CONTINUATION),
        Just(CONTINUATION),
        any::<u8>()
    ];
    let length = prop_oneof![4 => 0..40_usize, 1 => 0..20_000_usize, 1 => Just(MAX_FRAME_SIZE as usize)];
    let one = (
        kind,
        any::<u8>(),
        length,
        any::<u8>(),
        prop_oneof![9 => Just(1), 1 => Just(3)],
    );
    let one =
        one.prop_map(|(kind, flags, length, fill, stream)| frame(kind, flags, [0, 0, 0, stream], &vec![fill; length]));
    proptest::collection::vec(one, 0..20).prop_map(|frames| preface(&frames))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// However it is cut, h2 gets the same, and no more is held than a block may have and what came with it.
    #[test]
    fn pieces_make_no_difference(bytes in frames(), sizes in proptest::collection::vec(1..70_000_usize, 2)) {
        let (whole, ..) = pass(&bytes, 1 << 24);
        for size in sizes {
            let (out, most, _) = pass(&bytes, size);
            prop_assert!(out == whole, "{size}: {} bytes and not {}", out.len(), whole.len());
            prop_assert!(most <= LONGEST + MAX_FRAME_SIZE as usize + size + MOST_FRAMES * HEAD, "{most} bytes are held");
        }
    }

    #[test]
    fn noise_ends_nothing(noise in proptest::collection::vec(any::<u8>(), 0..4000), size in 1..4000_usize) {
        let bytes = [vec![b'P'; PREFACE], noise].concat();
        let (out, most, _) = pass(&bytes, size);
        prop_assert!(out.len() + most <= 2 * bytes.len() + 200);
    }
}
