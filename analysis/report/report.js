"use strict";
document.querySelectorAll("table.sortable").forEach(function (table) {
  var body = table.tBodies[0], all = Array.from(body.rows), grouped = table.classList.contains("grouped");
  table.querySelectorAll("thead tr:last-child th").forEach(function (th, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = th.textContent;
    th.textContent = "";
    th.appendChild(button);
    button.addEventListener("click", function () {
      var up = th.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      table.classList.remove("grouped");
      grouped = false;
      var key = function (row) { return row.cells[column].dataset.value || row.cells[column].textContent; };
      Array.from(body.rows).sort(function (a, b) {
        var x = key(a), y = key(b), n = parseFloat(x) - parseFloat(y);
        var order = isNaN(n) ? x.localeCompare(y, undefined, { numeric: true }) : n;
        return up ? order : -order;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
  if (all.length < 6) { return; }
  var bar = document.createElement("div"), input = document.createElement("input"), count = document.createElement("output");
  bar.className = "filter";
  input.type = "search";
  input.placeholder = "Filter rows: every word must occur; -word must not";
  input.setAttribute("aria-label", "Filter the rows of table " + table.id);
  input.setAttribute("aria-controls", table.id);
  bar.appendChild(input);
  bar.appendChild(count);
  table.parentNode.parentNode.insertBefore(bar, table.parentNode);
  var texts = new Map(all.map(function (row) {
    return [row, Array.from(row.cells).map(function (cell) { return cell.textContent; }).join(" ").toLowerCase()];
  }));
  input.addEventListener("input", function () {
    var words = input.value.toLowerCase().split(/\s+/).filter(function (word) { return word && word !== "-"; });
    var shown = 0;
    all.forEach(function (row) {
      row.hidden = !words.every(function (word) {
        return word[0] === "-" ? !texts.get(row).includes(word.slice(1)) : texts.get(row).includes(word);
      });
      shown += row.hidden ? 0 : 1;
    });
    // A row without the one above it must say all of what it is of.
    table.classList.toggle("grouped", grouped && words.length === 0);
    count.textContent = words.length ? shown + " of " + all.length + " rows" : "";
  });
});
// On paper nothing can be opened; the longest lists stay in the files beside the page.
var opened = [];
window.addEventListener("beforeprint", function () {
  opened = Array.from(document.querySelectorAll("details:not([open])")).filter(function (details) {
    return details.querySelectorAll("tbody tr").length <= 100;
  });
  opened.forEach(function (details) { details.open = true; });
});
window.addEventListener("afterprint", function () {
  opened.forEach(function (details) { details.open = false; });
});
