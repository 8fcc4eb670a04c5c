// Makes elements: text only ever becomes text.
const $ = id => document.getElementById(id);
function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
/** A text of which the end is seen where there is no room for all of it; within an element of class `ends`. */
function ending(text) {
  const made = element('span');
  made.append(element('bdi', text));
  return made;
}
function button(text, onClick, title) {
  const made = element('button', text);
  made.type = 'button';
  if (title) made.title = title;
  made.addEventListener('click', onClick);
  return made;
}
function swatch(fill, edge) {
  const made = element('span', undefined, 'swatch');
  made.style.background = edge ? `linear-gradient(to right, ${edge} 0 4px, ${fill} 4px)` : fill;
  return made;
}
/** A table of texts; the first column is words, the others are figures. */
function textTable(columns, rows, marked = []) {
  const table = element('table', undefined, 'figures'), head = element('tr'), body = element('tbody'), top = element('thead');
  for (const column of columns) head.append(Object.assign(element('th', column), { scope: 'col' }));
  rows.forEach((row, index) => {
    const line = element('tr', undefined, marked.includes(index) ? 'marked' : '');
    for (const cell of row) line.append(element('td', cell));
    body.append(line);
  });
  top.append(head);
  table.append(top, body);
  return table;
}
