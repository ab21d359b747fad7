// The files with pages in memory: choosing a file lights its pages.

class Files {
  // choose(indexes of files)
  constructor(model, tabs, choose) {
    this.chosen = new Set();
    if (!model.fileOf || !about.files.length) return;
    const pages = new Uint32Array(about.files.length);
    for (const file of model.fileOf) if (file) pages[file - 1]++;
    this.list = new ItemList(byId("file-list"), {
      label: "files",
      placeholder: "Search path",
      columns: [
        { title: "File", value: ({ name }) => name.toLowerCase(), cell: Files.path, grows: true },
        ...pagesColumns("Pages in memory"),
      ],
      sort: 1,
      text: ({ path }) => path,
      title: ({ path }) => path,
      isChosen: ({ index }) => this.chosen.has(index),
      choose: ({ index }) => {
        const changed = new Set(this.chosen);
        if (!changed.delete(index)) changed.add(index);
        choose(changed);
      },
    });
    this.items = about.files.map((path, index) => ({
      index,
      path,
      name: nameInPath(path),
      pages: pages[index],
    }));
    tabs.add("files");
    const size = pages.reduce((sum, each) => sum + each, 0);
    byId("file-count").textContent = `${counted(pages.length)} · ${amount(size)}`;
  }

  // The file's name, and its folder behind it.
  static path({ path, name }) {
    return element(
      "span",
      {},
      nameElement(name),
      element("bdi", { className: "folder" }, path.slice(0, path.length - name.length)),
    );
  }

  show(chosen) {
    this.chosen = chosen;
    this.list?.show(this.items);
  }
}
