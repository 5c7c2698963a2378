//! Every bound of the protocols in one place. Nothing a peer sends makes the codecs hold more than this.

/// Longest name of a volume, checkpoint or reference point, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest reference point token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 512;

/// Longest string the NBD specification allows (export names, context names, error messages).
pub const NBD_STRING_BYTES_MAX: usize = 4096;
/// Largest data of one NBD option that is kept; larger options are discarded and answered `TOO_BIG`.
pub const NBD_OPTION_BYTES_MAX: usize = 64 * 1024;
/// Most queries in one `LIST_META_CONTEXT` or `SET_META_CONTEXT`.
pub const NBD_QUERIES_MAX: usize = 64;
/// Most metadata contexts one session may select.
pub const NBD_CONTEXTS_MAX: usize = 16;
/// Most information items looked at in `INFO` and `GO`.
pub const NBD_INFO_ITEMS_MAX: usize = 64;
/// Largest data payload of a READ or WRITE, in bytes; advertised as the maximum block size.
pub const NBD_PAYLOAD_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Block size advertised as preferred, in bytes.
pub const NBD_BLOCK_BYTES_PREFERRED: u32 = 4096;
/// Most descriptors in one block status chunk; the specification asks for no more than 2^20.
pub const NBD_EXTENTS_MAX: usize = 16 * 1024;

/// Longest line on the control port without its newline, in bytes.
pub const CONTROL_LINE_BYTES_MAX: usize = 64 * 1024;
/// Most members in the `params` object of a request.
pub const PARAMETERS_MAX: usize = 16;
/// Most entries in a list parameter, such as the volumes of one checkpoint.
pub const LIST_ENTRIES_MAX: usize = 1024;
/// Longest text parameter, in bytes: a token fits.
pub const TEXT_BYTES_MAX: usize = 512;
/// Longest text `id` of a request, in bytes.
pub const ID_BYTES_MAX: usize = 256;

/// Longest console line, in bytes.
pub const CONSOLE_LINE_BYTES_MAX: usize = 4096;
/// Lines the console remembers.
pub const CONSOLE_HISTORY_LINES_MAX: usize = 100;
/// Most words on a console line.
pub const CONSOLE_WORDS_MAX: usize = 1100;
/// Most completions the console lists for one press of Tab.
pub const CONSOLE_COMPLETIONS_MAX: usize = 64;
/// Widest column of a console table, in characters.
pub const CONSOLE_COLUMN_MAX: usize = 80;
/// A column of a console table is not cut below this many characters: a time and most names fit.
pub const CONSOLE_COLUMN_MIN: usize = 24;
/// Columns of a terminal that has not told how many it has.
pub const CONSOLE_WIDTH_DEFAULT: usize = 80;
/// Fewest columns that a terminal is believed to have; less is another key's sequence.
pub const CONSOLE_WIDTH_MIN: usize = 20;
/// Most columns that are used.
pub const CONSOLE_WIDTH_MAX: usize = 400;
