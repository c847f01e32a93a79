/* Search in the browser alone, so that it works from disk too: a page that is opened as file:// may fetch no JSON and
   start no worker, but it may load a script. docs/scripts/search.py writes that script, `search/index.js`:
   `sections = [[page, section, address, text, options that it defines], …]`. A section is found when it holds every word
   of the query; one that defines an option of the query comes before those that name it. Of a page in two languages only
   the one is searched in which one reads; the Chinese ones too when the query is in Chinese. */
(function () {
  var SHOWN = 30, BEFORE = 50, AFTER = 150;
  var here = document.documentElement.lang, entries = null, waiting = false;

  /* batch_size, BATCH-SIZE and ｂatch-size are all batch-size. Nothing changes its length here but full-width signs. */
  function folded(text) {
    return text.normalize("NFKC").toLowerCase().replace(/_/g, "-");
  }

  function whole(text, word, at) {
    var edge = /[a-z0-9-]/, end = at + word.length;
    return !(edge.test(text.charAt(at - 1)) && edge.test(word.charAt(0))) &&
      !(edge.test(text.charAt(end)) && edge.test(word.charAt(word.length - 1)));
  }

  /* 0: the word is not there. Whole words count more than parts of words, titles more than text. */
  function worth(word, title, text) {
    var score = 0, found = 0;
    if (title.includes(word)) score += whole(title, word, title.indexOf(word)) ? 30 : 10;
    for (var at = text.indexOf(word); at >= 0 && found < 5; at = text.indexOf(word, at + word.length), found++) {
      score += whole(text, word, at) ? 3 : 1;
    }
    return score;
  }

  /* How much more a section is worth that defines the option --word or a field config.word, or one that begins so. */
  function defines(word, options) {
    if (!/^--|^[a-z]+\.[a-z.-]+$/.test(word)) return 1;
    var name = word.replace(/^--/, "");
    return options.includes(name) ? 100 : options.some(function (option) { return option.startsWith(name); }) ? 50 : 1;
  }

  function page(address) {
    return address.split("#")[0].replace(/^zh\//, "");
  }

  function search(query) {
    var words = folded(query).split(/\s+/).filter(Boolean), found = [];
    if (!words.length) return found;
    var reading = here === "zh-Hans" || /[\u3400-\u9fff]/.test(query);
    var both = new Set(entries.filter(function (entry) { return entry.chinese; }).map(function (e) { return page(e.address); }));
    entries.forEach(function (entry) {
      if (both.has(page(entry.address)) && entry.chinese !== reading) return;
      var scores = words.map(function (word) { return worth(word, entry.title, entry.folded); });
      if (scores.includes(0)) return;
      var sum = scores.reduce(function (a, b) { return a + b; });
      var factor = Math.max.apply(null, words.map(function (word) { return defines(word, entry.options); }));
      found.push({ entry: entry, words: words, score: factor * sum });
    });
    return found.sort(function (a, b) { return b.score - a.score; }).slice(0, SHOWN);
  }

  function snippet(result) {
    var entry = result.entry, made = document.createElement("p");
    var first = Math.min.apply(null, result.words.map(function (word) {
      var at = entry.folded.indexOf(word);
      return at < 0 ? Infinity : at;
    }));
    first = first === Infinity ? 0 : first;
    var from = Math.max(0, first - BEFORE), text = entry.text.slice(from, first + AFTER), low = folded(text);
    if (from) made.append("… ");
    for (var at = 0; at < text.length;) {
      var next = text.length, length = 0;
      result.words.forEach(function (word) {
        var hit = low.indexOf(word, at);
        if (hit >= 0 && hit < next) { next = hit; length = word.length; }
      });
      made.append(text.slice(at, next));
      if (length) {
        var mark = document.createElement("mark");
        mark.textContent = text.slice(next, next + length);
        made.append(mark);
      }
      at = next + length;
    }
    made.append(" …");
    return made;
  }

  function show() {
    var box = document.getElementById("mkdocs-search-results");
    var query = document.getElementById("mkdocs-search-query").value;
    box.replaceChildren();
    if (!entries) return load();
    var results = search(query);
    results.forEach(function (result) {
      var made = document.createElement("article"), title = document.createElement("h3"), link = document.createElement("a");
      link.href = base_url.replace(/\/$/, "") + "/" + result.entry.address;
      link.textContent = result.entry.name;
      title.append(link);
      made.append(title, snippet(result));
      box.append(made);
    });
    if (query.trim() && !results.length) box.textContent = box.dataset.nothing;
  }

  function load() {
    if (waiting) return;
    waiting = true;
    var script = document.createElement("script");
    script.src = base_url.replace(/\/$/, "") + "/search/index.js";
    script.onload = function () {
      entries = sections.map(function (s) {
        var name = s[0] === s[1] ? s[0] : s[0] + " › " + s[1];
        var text = s[3].normalize("NFKC");
        return {
          name: name, title: folded(name), address: s[2], text: text, folded: folded(text),
          options: s[4].map(folded), chinese: s[2].startsWith("zh/")
        };
      });
      show();
    };
    document.body.append(script);
  }

  document.addEventListener("DOMContentLoaded", function () {
    var input = document.getElementById("mkdocs-search-query"), asked = new URLSearchParams(location.search).get("q");
    input.addEventListener("input", show);
    document.getElementById("mkdocs_search_modal").addEventListener("shown.bs.modal", load);
    if (asked) { input.value = asked; show(); }
  });
})();
